"""Video-mAP, the metric of UCF101-24, JHMDB and MultiSports: average precision of tubes instead of boxes.

Two tubes overlap by the IoU of their frames times the mean IoU of their boxes over the frames that they
share. By falling score, a tube takes the ground-truth tube of its video and class that it overlaps most;
below the threshold it is a false positive. `tube_protocols` says what benchmarks differ in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vmae_det.evaluation.mismatch import Places, why_nothing_matches
from vmae_det.evaluation.ties import describe_ties
from vmae_det.evaluation.tube_matching import Pairs, RankedClasses, box_overlaps, tube_overlaps
from vmae_det.evaluation.tube_protocols import TUBE_PROTOCOLS, TubeProtocol
from vmae_det.formats.tube_csv import Tubes
from vmae_det.utils.errors import DataError, UserError, quoted

_FRAME_IOU = 0.5


@dataclass(frozen=True)
class VideoMAP:
    """Average precision of tubes, and of their boxes in frames at IoU 0.5.

    Args:
        labels: C names of the ground truth's actions that count, sorted.
        ap: (C, K, 3) in [0, 1] for each of `thresholds`: as it is, and the least and the greatest that
            another order of equal scores can give.
        frame_ap: (C, 3) of boxes in frames, every frame a keyframe.
        reported: thresholds, as they are given.
        num_ground_truth: (C,) tubes.
        num_detections: tubes given.
        num_scored: those of them whose label is in `labels`.
        num_rivals: tubes that compete with one of the same score for ground truth where the next best may be
            taken: their order can move the numbers beyond the range.
        num_videos: with ground truth.
        num_undetected: those of them without detections.
        problem: why no detection finds anything, or ''.
        warning: that frames seem to be counted from 0 in one file and from 1 in the other, or ''.
    """

    protocol: str
    labels: tuple[str, ...]
    thresholds: tuple[float, ...]
    ap: np.ndarray
    frame_ap: np.ndarray
    reported: tuple[float, ...]
    num_ground_truth: np.ndarray
    num_detections: int
    num_scored: int
    num_rivals: int
    num_videos: int
    num_undetected: int
    problem: str
    warning: str

    def columns(self) -> dict[str, np.ndarray]:
        """(C, 3) at each reported threshold and for each average, by name."""
        place = {threshold: k for k, threshold in enumerate(self.thresholds)}
        columns = {f"{threshold:g}": self.ap[:, place[threshold]] for threshold in self.reported}
        averages = TUBE_PROTOCOLS[self.protocol].averages()
        return columns | {
            name: self.ap[:, [place[threshold] for threshold in over]].mean(axis=1)
            for name, over in averages.items()
        }

    def per_class(self) -> dict[str, np.ndarray]:
        """(C,) AP at each reported threshold and for each average, by name."""
        return {name: column[:, 0] for name, column in self.columns().items()}

    def to_json(self) -> dict[str, Any]:
        """What json.dump takes."""
        columns = self.columns()
        per_class = {
            label: {name: float(column[i, 0]) for name, column in columns.items()}
            | {"frame_ap": float(self.frame_ap[i, 0]), "num_ground_truth": int(self.num_ground_truth[i])}
            for i, label in enumerate(self.labels)
        }
        return {
            "protocol": self.protocol,
            "video_mAP": {name: float(column[:, 0].mean()) for name, column in columns.items()},
            "video_mAP_range": {
                name: column[:, 1:].mean(axis=0).tolist() for name, column in columns.items()
            },
            "frame_mAP": float(self.frame_ap[:, 0].mean()),
            "frame_mAP_range": self.frame_ap[:, 1:].mean(axis=0).tolist(),
            "per_class": per_class,
            "num_detections": self.num_detections,
            "num_scored": self.num_scored,
            "num_videos": self.num_videos,
            "num_undetected_videos": self.num_undetected,
            "problem": self.problem,
            "warning": self.warning,
        }

    def table(self) -> str:
        """A line for each class, and the means below."""
        columns = {f"frame@{_FRAME_IOU}": self.frame_ap} | {
            f"video@{k}": v for k, v in self.columns().items()
        }
        width = max(len(name) for name in ("mean", *self.labels))
        lines = [f"{'class':{width}}  " + "  ".join(f"{name:>14}" for name in columns) + "   tubes"]
        rows = [(label, [column[i, 0] for column in columns.values()]) for i, label in enumerate(self.labels)]
        rows.append(("mean", [column[:, 0].mean() for column in columns.values()]))
        counts = [*self.num_ground_truth, self.num_ground_truth.sum()]
        for (label, values), count in zip(rows, counts):
            cells = "  ".join(f"{100 * value:14.2f}" for value in values)
            lines.append(f"{label:{width}}  {cells}  {count:6d}")
        lines.append(
            f"protocol {self.protocol}: {TUBE_PROTOCOLS[self.protocol].summary}; "
            f"{self.num_scored} of {self.num_detections} tubes have a label that is scored"
        )
        for name, column in columns.items():
            low, high = column[:, 1:].mean(axis=0)
            if high - low > 1e-9 or name.startswith("frame"):
                lines.append(f"{name}: {describe_ties((low, high), 'video id and tube id')}")
        if self.num_rivals:
            lines.append(
                f"{self.num_rivals} tubes compete with one of the same score for ground truth: their order "
                "can move the numbers further"
            )
        if self.num_undetected:
            lines.append(f"{self.num_undetected} of {self.num_videos} annotated videos have no detections")
        if self.problem:
            lines.append(f"No tube counts: {self.problem}.")
        if self.warning:
            lines.append(f"WARNING: {self.warning}")
        return "\n".join(lines)


def video_map(
    ground_truth: Tubes,
    detections: Tubes,
    protocol: str = "continuous",
    *,
    labels: Sequence[str] | None = None,
    thresholds: Sequence[float] | None = None,
) -> VideoMAP:
    """Video-mAP and frame-mAP; classes without ground truth are not in the means.

    Tubes of equal score are ordered by video id and tube id.

    Args:
        protocol: one of TUBE_PROTOCOLS.
        labels: those that count; None for all of the ground truth that the protocol scores.
        thresholds: of IoU, to report instead of the protocol's; its averages stay.

    Raises:
        UserError: an unknown protocol or an impossible threshold.
        DataError: no ground truth counts, or the boxes' unit does not fit the protocol.
    """
    if protocol not in TUBE_PROTOCOLS:
        raise UserError(f"protocol must be one of {', '.join(TUBE_PROTOCOLS)}, got {protocol!r}")
    rules = TUBE_PROTOCOLS[protocol]
    reported = tuple(rules.thresholds if thresholds is None else thresholds)
    for threshold in reported:
        if not 0 < threshold <= 1:
            raise UserError(f"IoU thresholds must be in (0, 1], got {threshold:g}")
    counted = [
        label
        for label in np.unique(ground_truth.label)
        if label not in rules.not_scored and (labels is None or label in labels)
    ]
    if not counted:
        raise DataError("no tube of the ground truth has a label that is scored")
    truth = ground_truth.select(np.isin(ground_truth.label, counted))
    found = detections.select(np.isin(detections.label, counted))
    truth, found = _in_unit_of(protocol, rules, truth, found)

    pairs = tube_overlaps(truth, found, rules.has_inclusive_frames)
    averaged = (threshold for over in rules.averages().values() for threshold in over)
    every = tuple(sorted({*reported, *averaged}))
    ap, num_rivals = np.empty((len(counted), len(every), 3)), 0
    classes = RankedClasses.of(counted, truth.label, found.label, found.score)
    for k, threshold in enumerate(every):
        ap[:, k], rivals = classes.ap(pairs, threshold, rules.tubes)
        num_rivals = max(num_rivals, rivals)
    by_frame = RankedClasses.of(
        counted, truth.label[truth.tube], found.label[found.tube], found.score[found.tube]
    )
    frame_ap, _ = by_frame.ap(box_overlaps(truth, found), _FRAME_IOU, rules.frames)
    annotated = set(truth.video)
    return VideoMAP(
        protocol=protocol,
        labels=tuple(counted),
        thresholds=every,
        ap=ap,
        frame_ap=frame_ap,
        reported=reported,
        num_ground_truth=classes.num_truth,
        num_detections=len(detections),
        num_scored=len(found),
        num_rivals=num_rivals,
        num_videos=len(annotated),
        num_undetected=len(annotated - set(found.video)),
        problem="" if ap[..., 2].any() else _why_nothing_counts(truth, found, detections, pairs, min(every)),
        warning=_different_first_frames(truth, found),
    )


def _different_first_frames(truth: Tubes, found: Tubes) -> str:
    """That one file seems to count frames from 0 and the other from 1, or ''."""
    first = [int(tubes.frame.min(initial=2)) for tubes in (truth, found)]
    if sorted(first) != [0, 1]:
        return ""
    return (
        f"the first frame of the ground truth is {first[0]}, that of the detections {first[1]}: do both "
        "count from the same number?"
    )


def _why_nothing_counts(truth: Tubes, found: Tubes, detections: Tubes, pairs: Pairs, threshold: float) -> str:
    if len(detections) and not len(found):
        ours, theirs = (quoted(tubes.label[0]) for tubes in (truth, detections))
        return f"no label is in both files: the ground truth has {ours}, the detections {theirs}"
    places = []
    for tubes in (truth, found):
        videos, video = np.unique(tubes.video.astype(object), return_inverse=True)
        places.append(Places(videos, video[tubes.tube], tubes.frame.astype(np.float64)))
    if reason := why_nothing_matches(*places, what="frames"):
        return reason
    if not len(pairs.overlap):
        return "none has the label of a tube in its frames"
    return f"the largest IoU with a tube is {pairs.overlap.max():.2g}, and {threshold:g} is needed"


def _in_unit_of(protocol: str, rules: TubeProtocol, truth: Tubes, found: Tubes) -> list[Tubes]:
    """Both with boxes as the protocol counts them, in continuous coordinates; rows by tube and frame."""
    units = [_unit(tubes.boxes) for tubes in (truth, found)]
    if rules.frame_size is None and set(units) >= {"pixels", "relative"}:
        raise DataError(f"units differ: the ground truth's boxes are {units[0]}, the detections' {units[1]}")
    if rules.frame_size is None and rules.has_inclusive_pixels and "relative" in units:
        raise DataError(
            f"protocol {protocol} counts pixels, and the boxes are relative to the frame; protocols "
            "ucf101-24 and jhmdb know the size of their frames, continuous and multisports need none"
        )
    result = []
    for tubes, unit, other in zip((truth, found), units, units[::-1]):
        order = np.lexsort((tubes.frame, tubes.tube))
        boxes = tubes.boxes[order]
        if rules.frame_size is not None and (unit or other) == "relative":
            boxes = boxes * np.tile(rules.frame_size, 2)
        if rules.has_inclusive_pixels:
            boxes = boxes + np.array([0, 0, 1, 1])
        result.append(replace(tubes, tube=tubes.tube[order], frame=tubes.frame[order], boxes=boxes))
    return result


def _unit(boxes: np.ndarray) -> str:
    """ "pixels", "relative", or "" where boxes can be either, as those of 0 and 1 alone."""
    if np.abs(boxes).max(initial=0) > 1.5:
        return "pixels"
    return "relative" if (boxes % 1 != 0).any() else ""
