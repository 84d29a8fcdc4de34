"""Frame-mAP, the metric of AVA: the mean over classes of the average precision of boxes in keyframes.

`matching` says which detections are true positives, and what the two protocols are. Over all keyframes, by
falling score, average precision is the area under the monotone envelope of precision over recall (PASCAL
VOC). A class without ground truth has none, and is left out of the mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vmae_det.evaluation.average_precision import average_precision
from vmae_det.evaluation.matching import PROTOCOLS, Matches, match
from vmae_det.evaluation.mismatch import Places, why_nothing_matches
from vmae_det.evaluation.ties import TIE_ORDER, ap_range, describe_ties
from vmae_det.formats.ava_csv import ActionBoxes, read_action_csv, read_excluded_keyframes
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.person_boxes import PersonBoxes


@dataclass(frozen=True)
class FrameMAP:
    """Average precision of every class, in the order of the label map.

    Args:
        ap: (C,) in [0, 1]; NaN for a class without ground truth.
        num_ground_truth: (C,) boxes.
        num_detections: rows given, with an action of the label map.
        num_scored: those of them that counted under the protocol.
        ap_range: (C, 2) the least and the greatest AP that another order of equal scores can give.
        num_keyframes: with ground truth.
        num_undetected: those of them without any detection that counts.
        problem: why no detection finds anything, or ''.
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
        """The metric at one IoU threshold; UserError where that is outside of (0, 1]."""
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
            ap_range=ap_range(matches, iou),
            num_keyframes=matches.num_keyframes,
            num_undetected=matches.num_undetected,
            problem="" if hit.any() else _why_nothing_counts(matches, iou),
        )

    @property
    def mean_ap(self) -> float:
        """Mean over the classes with ground truth, in [0, 1]."""
        return float(np.nanmean(self.ap))

    @property
    def mean_range(self) -> tuple[float, float]:
        """The least and the greatest `mean_ap` that another order of equal scores can give."""
        low, high = np.nanmean(self.ap_range, axis=0)
        return float(low), float(high)

    def to_json(self) -> dict[str, Any]:
        """What json.dump takes; classes without ground truth have null."""
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
        """The classes with ground truth, best first, and the mean below."""
        width = max(len(name) for name in ("frame-mAP", *self.label_map.names))
        lines = [f"{'class':{width}}  {'AP':>6}  {'boxes':>6}"]
        for column in np.argsort(-self.ap, kind="stable"):
            if not np.isnan(self.ap[column]):
                name, count = self.label_map.names[column], self.num_ground_truth[column]
                lines.append(f"{name:{width}}  {100 * self.ap[column]:6.2f}  {count:6d}")
        absent = int(np.isnan(self.ap).sum())
        if absent:
            lacking = "ground truth or detections" if self.protocol == "mmaction2" else "ground truth"
            lines.append(f"({absent} classes without {lacking} are not in the mean)")
        lines.append(f"{'frame-mAP':{width}}  {100 * self.mean_ap:6.2f}  {self.num_ground_truth.sum():6d}")
        lines.append(
            f"protocol {self.protocol}, IoU {self.iou:g}; "
            f"{self.num_scored} of {self.num_detections} rows scored"
        )
        lines.append(describe_ties(self.mean_range, TIE_ORDER))
        if self.num_undetected:
            lines.append(
                f"{self.num_undetected} of {self.num_keyframes} annotated keyframes have no detections"
            )
        if self.problem:
            lines.append(f"No detection counts: {self.problem}.")
        return "\n".join(lines)


def _why_nothing_counts(matches: Matches, iou: float) -> str:
    truth, found = matches.ground_truth, matches.detections
    if len(found.source) and not matches.num_detections:
        ours, theirs = (
            ", ".join(map(str, np.unique(ids)[:5]))
            for ids in (np.array(matches.label_map.ids), found.source.action)
        )
        return f"the label map has the action ids {ours} ..., the detections have {theirs} ..."
    places = [
        Places(rows.videos, rows.video, rows.timestamp)
        for rows in (truth.source.select(truth.row), found.source)
    ]
    if reason := why_nothing_matches(*places):
        return reason
    if not len(matches.overlap):
        return "none claims an action that is annotated in its keyframe"
    best = matches.overlap.max()
    return f"the largest IoU with an annotated box is {best:.2g}, and {iou:g} is needed"


def evaluate_frame_map(
    ground_truth_csv: str | Path,
    detections_csv: str | Path,
    label_map: str | Path,
    *,
    excluded: str | Path | None = None,
    protocol: str = PROTOCOLS[0],
    iou: float = 0.5,
) -> FrameMAP:
    """Frame-mAP of AVA's files; rows with actions outside the label map are ignored.

    Raises:
        DataError: a malformed file, with the line.
        UserError: an unknown protocol or an impossible IoU.
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
    ground_truth: ActionBoxes, detections: ActionBoxes, label_map: LabelMap, iou: float = 0.5, **rules: Any
) -> FrameMAP:
    """Frame-mAP of arrays at one IoU threshold in (0, 1]; `rules` and errors are those of `match`.

    Several thresholds need one `match` and a `FrameMAP.from_matches` each.
    """
    return FrameMAP.from_matches(match(ground_truth, detections, label_map, **rules), iou)


def chance_level(
    ground_truth: ActionBoxes,
    person_boxes: PersonBoxes,
    label_map: LabelMap,
    *,
    seed: int = 0,
    repeats: int = 5,
    **rules: Any,
) -> float:
    """Frame-mAP of random scores for every action of every person box, the mean of `repeats` draws.

    `rules` are those of `match`.
    """
    generator = np.random.default_rng(seed)
    shape = (len(person_boxes), len(label_map))
    persons = (person_boxes.videos, person_boxes.video, person_boxes.timestamp, person_boxes.boxes)
    draws = [
        frame_map(
            ground_truth,
            ActionBoxes.from_scores(*persons, generator.random(shape), label_map),
            label_map,
            **rules,
        ).mean_ap
        for _ in range(repeats)
    ]
    return float(np.mean(draws))
