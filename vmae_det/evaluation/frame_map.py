"""Frame-mAP, the metric of AVA: mean over classes of the average precision of boxes in keyframes.

`vmae_det.evaluation.matching` decides which detections are true positives, under one of three protocols.
Average precision is computed over all keyframes, by descending score, as the area under the monotone envelope
of precision over recall (PASCAL VOC). Classes without ground truth have no AP and are not part of the mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vmae_det.evaluation.average_precision import average_precision, envelope_area, tied_ranks
from vmae_det.evaluation.diagnostics import describe_ties, explain_no_match, times_by_video
from vmae_det.evaluation.matching import PROTOCOLS, Matches, match, pair_with_best_boxes
from vmae_det.formats.ava_csv import ActionBoxes, read_action_csv, read_excluded_keyframes
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.person_boxes import PersonBoxes

_TIE_ORDER = "video id, time, action id, coordinates"


@dataclass(frozen=True)
class FrameMAP:
    """Average precision of each class, in label map order.

    Args:
        ap: (C,) in [0, 1]; NaN for a class without ground truth.
        num_ground_truth: (C,) number of ground-truth boxes.
        num_detections: number of input detections with an action of the label map.
        num_scored: number of detections that the protocol scores.
        ap_range: (C, 2) lowest and highest AP that another order of ties in score can give.
        num_keyframes: number of keyframes with ground truth.
        num_undetected: number of those keyframes without scored detections.
        problem: why there are no true positives, or ''.
    """

    label_map: LabelMap
    ap: np.ndarray
    num_ground_truth: np.ndarray
    num_detections: int
    num_scored: int
    protocol: str
    iou: float
    ap_range: np.ndarray
    num_keyframes: int
    num_undetected: int
    problem: str

    @classmethod
    def from_matches(cls, matches: Matches, iou: float = 0.5) -> FrameMAP:
        """Compute the metric at one IoU threshold. Raise UserError if it is outside (0, 1]."""
        hit = matches.true_positives(iou)
        ap = [
            average_precision(hit[rows], count)
            for rows, count in zip(matches.ranked, matches.num_ground_truth)
        ]
        return cls(
            label_map=matches.label_map,
            ap=np.array(ap),
            num_ground_truth=matches.num_ground_truth,
            num_detections=matches.num_detections,
            num_scored=len(matches.detections),
            protocol=matches.protocol,
            iou=float(iou),
            ap_range=_ap_range(matches, iou),
            num_keyframes=matches.num_keyframes,
            num_undetected=matches.num_undetected,
            problem="" if hit.any() else _explain_no_true_positive(matches, iou),
        )

    @property
    def mean_ap(self) -> float:
        """Mean AP over the classes with ground truth, in [0, 1]."""
        return float(np.nanmean(self.ap))

    @property
    def mean_range(self) -> tuple[float, float]:
        """Lowest and highest `mean_ap` that another order of ties in score can give."""
        low, high = np.nanmean(self.ap_range, axis=0)
        return float(low), float(high)

    def to_json(self) -> dict[str, Any]:
        """Return a dict for json.dump. Classes without ground truth have null as AP."""
        columns = zip(self.label_map.names, self.label_map.ids, self.ap, self.num_ground_truth)
        return {
            "mAP": self.mean_ap,
            "mAP_range": list(self.mean_range),
            "per_class": {
                name: {
                    "id": action,
                    "ap": None if np.isnan(ap) else float(ap),
                    "num_ground_truth": int(count),
                }
                for name, action, ap, count in columns
            },
            "protocol": self.protocol,
            "iou": self.iou,
            "num_detections": self.num_detections,
            "num_scored": self.num_scored,
            "num_keyframes": self.num_keyframes,
            "num_undetected_keyframes": self.num_undetected,
            "problem": self.problem,
        }

    def table(self) -> str:
        """Return a table of the classes with ground truth, best first, and the mean."""
        width = max(len(name) for name in ("frame-mAP", *self.label_map.names))
        lines = [f"{'class':{width}}  {'AP':>6}  {'boxes':>6}"]
        for column in np.argsort(-self.ap, kind="stable"):
            if not np.isnan(self.ap[column]):
                name, count = self.label_map.names[column], self.num_ground_truth[column]
                lines.append(f"{name:{width}}  {100 * self.ap[column]:6.2f}  {count:6d}")
        absent = int(np.isnan(self.ap).sum())
        if absent:
            what = "ground truth or detections" if self.protocol == "mmaction2" else "ground truth"
            lines.append(f"({absent} classes without {what} are not part of the mean)")
        lines.append(f"{'frame-mAP':{width}}  {100 * self.mean_ap:6.2f}  {self.num_ground_truth.sum():6d}")
        lines.append(
            f"protocol {self.protocol}, IoU {self.iou:g}; "
            f"{self.num_scored} of {self.num_detections} rows scored"
        )
        lines.append(describe_ties(self.mean_range, _TIE_ORDER))
        if self.num_undetected:
            lines.append(
                f"{self.num_undetected} of {self.num_keyframes} annotated keyframes have no detections"
            )
        if self.problem:
            lines.append(f"No true positives: {self.problem}.")
        return "\n".join(lines)


def _explain_no_true_positive(matches: Matches, iou: float) -> str:
    truth, detections = matches.ground_truth, matches.detections
    if len(detections.source) and not matches.num_detections:
        ours, theirs = (
            ", ".join(map(str, np.unique(ids)[:5]))
            for ids in (np.array(matches.label_map.ids), detections.source.action)
        )
        return f"the label map has the action ids {ours} ..., the detections have {theirs} ..."
    times = [
        times_by_video(rows.videos, rows.video, rows.timestamp)
        for rows in (truth.source.select(truth.row), detections.source)
    ]
    if reason := explain_no_match(*times):
        return reason
    if not len(matches.pair_iou):
        return "no detection has an action that is annotated in its keyframe"
    return f"the highest IoU with an annotated box is {matches.pair_iou.max():.2g}, below {iou:g}"


def evaluate_frame_map(
    ground_truth_csv: str | Path,
    detections_csv: str | Path,
    label_map: str | Path,
    *,
    excluded: str | Path | None = None,
    protocol: str = PROTOCOLS[0],
    iou: float = 0.5,
) -> FrameMAP:
    """Compute frame-mAP from AVA's files. Rows with actions outside the label map are ignored.

    Raises:
        DataError: a malformed file, with the line.
        UserError: an unknown protocol, or an IoU outside (0, 1].
    """
    return frame_map(
        read_action_csv(ground_truth_csv, kind="ground_truth"),
        read_action_csv(detections_csv, kind="detections"),
        LabelMap.from_file(label_map),
        iou=iou,
        excluded=None if excluded is None else read_excluded_keyframes(excluded),
        protocol=protocol,
    )


def frame_map(
    ground_truth: ActionBoxes, detections: ActionBoxes, label_map: LabelMap, iou: float = 0.5, **options: Any
) -> FrameMAP:
    """Compute frame-mAP from arrays at one IoU threshold in (0, 1].

    For several thresholds, call `match` once, and `FrameMAP.from_matches` for each.

    Args:
        options: see `match`, also for errors.
    """
    return FrameMAP.from_matches(match(ground_truth, detections, label_map, **options), iou)


def chance_level(
    ground_truth: ActionBoxes,
    person_boxes: PersonBoxes,
    label_map: LabelMap,
    *,
    seed: int = 0,
    repeats: int = 5,
    **options: Any,
) -> float:
    """Return the mean frame-mAP of `repeats` draws of random scores for each action of each person box.

    Args:
        options: see `match`.
    """
    generator = np.random.default_rng(seed)
    shape = (len(person_boxes), len(label_map))
    persons = (person_boxes.videos, person_boxes.video, person_boxes.timestamp, person_boxes.boxes)
    draws = [
        frame_map(
            ground_truth,
            ActionBoxes.from_scores(*persons, generator.random(shape), label_map),
            label_map,
            **options,
        ).mean_ap
        for _ in range(repeats)
    ]
    return float(np.mean(draws))


# ---------------------------------------------------------------- ties in score


def _ap_range(matches: Matches, iou: float) -> np.ndarray:
    """Return the lowest and the highest AP (C, 2) of each class over all orders of ties in score.

    Published evaluators leave this order to their sorting algorithm. Within a keyframe and class, detections
    of equal score with the same best box are one true positive and otherwise false positives, in any order.
    So the range is given by placing true positives after or before the false positives of equal score.

    It is a bound, but not always reached, in two cases. A false positive whose best box is that of a true
    positive of equal score cannot come first. And if rows tie at the cap of a keyframe, all their true
    positives and no false positives are kept at best, and the reverse at worst.
    """
    hit = matches.true_positives(iou)
    cap_ties = None if matches.cap_ties is None else _CapTies(matches, iou)
    result = np.empty((len(matches.label_map), 2))
    for column, (rows, score) in enumerate(matches.ranking):
        if cap_ties is None or not cap_ties.is_tied[cap_ties.ranking[column][0]].any():
            first, last = tied_ranks(score, hit[rows])
        else:
            first, last = cap_ties.tied_ranks(column, rows, score, hit[rows])
        count = matches.num_ground_truth[column]
        result[column] = envelope_area(last, count), envelope_area(first, count)
    return result


class _CapTies:
    """Matches of the keyframes in which rows tie at the cap, with all of the tied rows.

    Attributes:
        hit: mask of the true positives.
        ranking: see `Matches.ranking`.
        is_tied: mask of the rows that tie at the cap.
        is_other_keyframe: (D,) mask of the detections in keyframes without such ties.
    """

    def __init__(self, matches: Matches, iou: float) -> None:
        rows, last_score = matches.cap_ties
        detections, (pair_detection, pair_truth, pair_iou) = pair_with_best_boxes(
            matches.ground_truth, rows, len(matches.label_map), matches.protocol
        )
        uncapped = replace(
            matches,
            detections=detections,
            pair_detection=pair_detection,
            pair_truth=pair_truth,
            pair_iou=pair_iou,
        )
        self.hit, self.ranking = uncapped.true_positives(iou), uncapped.ranking
        self.is_tied = detections.score == last_score[detections.keyframe]
        self.is_other_keyframe = np.isnan(last_score)[matches.detections.keyframe]

    def tied_ranks(
        self, column: int, rows: np.ndarray, score: np.ndarray, hit: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the ranks of the true positives of a class, at best and at worst.

        Args:
            rows, score: the class's entry in `Matches.ranking`.
            hit: mask of the true positives among `rows`.
        """
        other = self.is_other_keyframe[rows]
        score, hit = score[other], hit[other]
        tied_rows, tied_score = self.ranking[column]
        ends = []
        for is_worst in (False, True):
            kept = ~(self.is_tied[tied_rows] & (self.hit[tied_rows] == is_worst))
            scores, hits = np.append(score, tied_score[kept]), np.append(hit, self.hit[tied_rows[kept]])
            order = np.argsort(-scores, kind="stable")
            ends.append(tied_ranks(scores[order], hits[order])[is_worst])
        return ends[0], ends[1]
