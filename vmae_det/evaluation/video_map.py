"""Video-mAP, the metric of UCF101-24, JHMDB and MultiSports: average precision of tubes instead of boxes.

The IoU of two tubes is the IoU of their frames times the mean IoU of their boxes over common frames. By
descending score, a tube takes the ground-truth tube of its video and class with the highest IoU. Below the
threshold, it is a false positive. The benchmarks differ in details:

- `act`: the evaluation of the ACT detector (Kalogeiton et al., ICCV 2017; ACT.py and ACT_utils.py). A box
  from x1 to x2 is x2 - x1 + 1 pixels wide. A detection whose best ground truth is taken gets the next best
  one. Average precision interpolates linearly between points of precision over recall, without an envelope.
- `ucf101-24`, `jhmdb`: as `act`; boxes relative to the frame are converted to pixels of these datasets'
  frames.
- `multisports`: the evaluation of MultiSports (evaluate_multisports.py). Coordinates are continuous. A tube
  lasts one frame less than it has frames. A detection whose best ground truth is taken is a false positive.
  Average precision has PASCAL VOC's envelope. Six rare classes are not scored.
- `continuous`: tubes as in `act`, frames as in `multisports`, boxes in any unit. Not comparable to any
  benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vmae_det.evaluation.diagnostics import describe_ties, explain_no_match, times_by_video
from vmae_det.evaluation.tube_matching import (
    MatchingRules,
    OverlappingPairs,
    RankedClasses,
    frame_box_iou,
    tube_iou,
)
from vmae_det.formats.tube_csv import MULTISPORTS_NOT_SCORED, Tubes
from vmae_det.utils.errors import DataError, UserError, quoted

_FRAME_IOU = 0.5
# Computed as in the evaluators: 0.1 + 0.1 * 2 is slightly more than 0.3.
_AVERAGED_THRESHOLDS = {
    "0.05:0.45": tuple(0.05 + 0.05 * i for i in range(9)),
    "0.10:0.90": tuple(0.1 + 0.1 * i for i in range(9)),
    "0.5:0.95": tuple(0.5 + 0.05 * i for i in range(10)),
}
_ACT_RULES = MatchingRules(takes_next_best=True, has_envelope=False)
_VOC_RULES = MatchingRules(takes_next_best=False, has_envelope=True)


@dataclass(frozen=True)
class TubeProtocol:
    """The protocol of one benchmark.

    Args:
        summary: short description.
        thresholds: IoU thresholds that are reported one by one.
        averaged: names of the reported averages over thresholds.
        tubes, frames: matching rules of video-mAP and of frame-mAP.
        has_inclusive_pixels: a box is one pixel wider and higher than the differences of its coordinates.
        has_inclusive_frames: a tube lasts as long as it has frames; otherwise, one frame less.
        frame_size: (width, height) that converts relative boxes to pixels; None leaves them relative.
        not_scored: classes that are ignored.
    """

    summary: str
    thresholds: tuple[float, ...]
    averaged: tuple[str, ...]
    tubes: MatchingRules
    frames: MatchingRules
    has_inclusive_pixels: bool = False
    has_inclusive_frames: bool = True
    frame_size: tuple[int, int] | None = None
    not_scored: tuple[str, ...] = ()

    def averages(self) -> dict[str, tuple[float, ...]]:
        """Return the thresholds of each reported average, by its name."""
        return {name: _AVERAGED_THRESHOLDS[name] for name in self.averaged}


def _act_protocol(summary: str, frame_size: tuple[int, int] | None = None) -> TubeProtocol:
    return TubeProtocol(
        summary,
        (0.2, 0.5, 0.75),
        ("0.5:0.95",),
        _ACT_RULES,
        _ACT_RULES,
        has_inclusive_pixels=True,
        frame_size=frame_size,
    )


TUBE_PROTOCOLS = {
    "continuous": TubeProtocol(
        "any unit of coordinates, not comparable to a benchmark",
        (0.2, 0.5),
        ("0.5:0.95",),
        _ACT_RULES,
        _VOC_RULES,
    ),
    "act": _act_protocol("evaluation of the ACT detector, boxes in inclusive pixels"),
    "ucf101-24": _act_protocol("evaluation of the ACT detector, frames of 320 x 240", (320, 240)),
    "jhmdb": _act_protocol("evaluation of the ACT detector, frames of 320 x 240", (320, 240)),
    "multisports": TubeProtocol(
        "evaluation of MultiSports, 6 rare classes not scored",
        (0.2, 0.5),
        ("0.05:0.45", "0.10:0.90", "0.5:0.95"),
        _VOC_RULES,
        _VOC_RULES,
        has_inclusive_frames=False,
        not_scored=MULTISPORTS_NOT_SCORED,
    ),
}


@dataclass(frozen=True)
class VideoMAP:
    """Average precision of tubes, and of their boxes in frames at IoU 0.5.

    Args:
        labels: C names of the scored actions of the ground truth, sorted.
        thresholds: K IoU thresholds, ascending.
        ap: (C, K, 3) in [0, 1]: AP, and the lowest and highest AP that another order of ties in score can
            give.
        frame_ap: (C, 3) AP of boxes in frames, every frame being a keyframe.
        reported: thresholds to report one by one.
        num_ground_truth: (C,) number of ground-truth tubes.
        num_detections: number of input tubes.
        num_scored: number of input tubes whose label is in `labels`.
        num_tied: number of tubes that compete with one of equal score for a ground truth. If the next best
            may be taken, their order can move results outside the range.
        num_videos: number of videos with ground truth.
        num_undetected: number of those videos without detections.
        problem: why there are no true positives, or ''.
        warning: set if frames seem to count from 0 in one file and from 1 in the other; otherwise ''.
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
    num_tied: int
    num_videos: int
    num_undetected: int
    problem: str
    warning: str

    def columns(self) -> dict[str, np.ndarray]:
        """Return (C, 3) AP and its range at each reported threshold and for each average, by name."""
        index = {threshold: k for k, threshold in enumerate(self.thresholds)}
        columns = {f"{threshold:g}": self.ap[:, index[threshold]] for threshold in self.reported}
        averages = TUBE_PROTOCOLS[self.protocol].averages()
        return columns | {
            name: self.ap[:, [index[threshold] for threshold in thresholds]].mean(axis=1)
            for name, thresholds in averages.items()
        }

    def per_class(self) -> dict[str, np.ndarray]:
        """Return (C,) AP at each reported threshold and for each average, by name."""
        return {name: column[:, 0] for name, column in self.columns().items()}

    def to_json(self) -> dict[str, Any]:
        """Return a dict for json.dump."""
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
        """Return a table of the classes and the means."""
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
        if self.num_tied:
            lines.append(
                f"{self.num_tied} tubes compete with one of equal score for a ground truth: their order "
                "can move results outside of the range"
            )
        if self.num_undetected:
            lines.append(f"{self.num_undetected} of {self.num_videos} annotated videos have no detections")
        if self.problem:
            lines.append(f"No true positives: {self.problem}.")
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
    """Compute video-mAP and frame-mAP. Classes without ground truth are not part of the means.

    Tubes of equal score are ordered by video id and tube id.

    Args:
        protocol: one of TUBE_PROTOCOLS.
        labels: labels to score; None scores all labels of the ground truth that the protocol scores.
        thresholds: IoU thresholds to report instead of the protocol's. Averages are unchanged.

    Raises:
        UserError: an unknown protocol, or a threshold outside (0, 1].
        DataError: no ground truth to score, or the unit of the boxes does not fit the protocol.
    """
    if protocol not in TUBE_PROTOCOLS:
        raise UserError(f"protocol must be one of {', '.join(TUBE_PROTOCOLS)}, got {protocol!r}")
    settings = TUBE_PROTOCOLS[protocol]
    reported = tuple(settings.thresholds if thresholds is None else thresholds)
    for threshold in reported:
        if not 0 < threshold <= 1:
            raise UserError(f"IoU thresholds must be in (0, 1], got {threshold:g}")
    classes = [
        label
        for label in np.unique(ground_truth.label)
        if label not in settings.not_scored and (labels is None or label in labels)
    ]
    if not classes:
        raise DataError("no ground truth to score: no tube has a scored label")
    truth = ground_truth.select(np.isin(ground_truth.label, classes))
    scored = detections.select(np.isin(detections.label, classes))
    truth, scored = _convert_boxes(protocol, settings, truth, scored)

    pairs = tube_iou(truth, scored, settings.has_inclusive_frames)
    averaged = (threshold for average in settings.averages().values() for threshold in average)
    all_thresholds = tuple(sorted({*reported, *averaged}))
    ap, num_tied = np.empty((len(classes), len(all_thresholds), 3)), 0
    ranked_tubes = RankedClasses.from_labels(classes, truth.label, scored.label, scored.score)
    for k, threshold in enumerate(all_thresholds):
        ap[:, k], tied_at_threshold = ranked_tubes.ap(pairs, threshold, settings.tubes)
        num_tied = max(num_tied, tied_at_threshold)
    ranked_boxes = RankedClasses.from_labels(
        classes, truth.label[truth.tube], scored.label[scored.tube], scored.score[scored.tube]
    )
    frame_ap, _ = ranked_boxes.ap(frame_box_iou(truth, scored), _FRAME_IOU, settings.frames)
    annotated = set(truth.video)
    problem = ""
    if not ap[..., 2].any():
        problem = _explain_no_true_positive(truth, scored, detections, pairs, min(all_thresholds))
    return VideoMAP(
        protocol=protocol,
        labels=tuple(classes),
        thresholds=all_thresholds,
        ap=ap,
        frame_ap=frame_ap,
        reported=reported,
        num_ground_truth=ranked_tubes.num_truth,
        num_detections=len(detections),
        num_scored=len(scored),
        num_tied=num_tied,
        num_videos=len(annotated),
        num_undetected=len(annotated - set(scored.video)),
        problem=problem,
        warning=_warn_of_first_frames(truth, scored),
    )


def _warn_of_first_frames(truth: Tubes, detections: Tubes) -> str:
    """Return a warning if one file seems to count frames from 0 and the other from 1, or ''."""
    first = [int(tubes.frame.min(initial=2)) for tubes in (truth, detections)]
    if sorted(first) != [0, 1]:
        return ""
    return (
        f"the first frame is {first[0]} in the ground truth and {first[1]} in the detections; check that "
        "both count frames from the same number"
    )


def _explain_no_true_positive(
    truth: Tubes, scored: Tubes, detections: Tubes, pairs: OverlappingPairs, threshold: float
) -> str:
    if len(detections) and not len(scored):
        ours, theirs = (quoted(tubes.label[0]) for tubes in (truth, detections))
        return f"no label is in both files: the ground truth has {ours}, the detections {theirs}"
    times = []
    for tubes in (truth, scored):
        videos, video = np.unique(tubes.video.astype(object), return_inverse=True)
        times.append(times_by_video(videos, video[tubes.tube], tubes.frame.astype(np.float64)))
    if reason := explain_no_match(*times, unit="frames"):
        return reason
    if not len(pairs.iou):
        return "no tube has the label of a ground-truth tube in a common frame"
    return f"the highest IoU with a ground-truth tube is {pairs.iou.max():.2g}, below {threshold:g}"


def _convert_boxes(protocol: str, settings: TubeProtocol, truth: Tubes, detections: Tubes) -> list[Tubes]:
    """Convert boxes to continuous coordinates in the protocol's unit, and sort rows by tube and frame."""
    units = [_guess_unit(tubes.boxes) for tubes in (truth, detections)]
    if settings.frame_size is None and set(units) >= {"pixels", "relative"}:
        raise DataError(
            f"expected boxes of one unit, got {units[0]} in the ground truth, {units[1]} in the detections"
        )
    if settings.frame_size is None and settings.has_inclusive_pixels and "relative" in units:
        raise DataError(
            f"protocol {protocol} expects boxes in pixels, got boxes relative to the frame; use ucf101-24 or "
            "jhmdb, which define the frame size, or continuous or multisports, which accept any unit"
        )
    result = []
    for tubes, unit, other in zip((truth, detections), units, units[::-1]):
        order = np.lexsort((tubes.frame, tubes.tube))
        boxes = tubes.boxes[order]
        if settings.frame_size is not None and (unit or other) == "relative":
            boxes = boxes * np.tile(settings.frame_size, 2)
        if settings.has_inclusive_pixels:
            boxes = boxes + np.array([0, 0, 1, 1])
        result.append(replace(tubes, tube=tubes.tube[order], frame=tubes.frame[order], boxes=boxes))
    return result


def _guess_unit(boxes: np.ndarray) -> str:
    """Return "pixels", "relative", or "" if both are possible, such as for coordinates of 0 and 1 only."""
    if np.abs(boxes).max(initial=0) > 1.5:
        return "pixels"
    return "relative" if (boxes % 1 != 0).any() else ""
