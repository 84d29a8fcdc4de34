"""Frame-mAP at every frame and video-mAP over tubes: the metrics of UCF101-24, JHMDB and MultiSports.

Two tubes overlap in space and time by their temporal IoU (common frames over all frames of either) times the
mean IoU of their boxes over the common frames. By falling score, a detected tube takes the ground-truth tube
of its video and label that it overlaps most; below the threshold, or where that one is taken, it is a false
positive. Average precision and its mean over labels are those of frame-mAP. A tube's score is the mean of its
boxes' scores.

Frame-mAP takes each box on its own, with its own score, at an IoU of 0.5: all boxes of a video and frame, by
falling score, matched as in `matching`.

Videos that the ground truth does not name do not count, nor do labels without ground truth.

The published evaluations differ from this, and from each other:

- ACT's, which UCF101-24 and JHMDB are scored with (MOC-Detector, ACT.py, ACT_utils.py): boxes are whole
  pixels, a side is x2 - x1 + 1; tubes have no gaps; overlapping tubes of one label are suppressed first, at
  0.3; a taken tube or box is gone, and the next best may be taken; the area under the curve is that of its
  trapezoids, from precision 1 at recall 0 on.
- MultiSports' (evaluate_multisports.py): a tube's time is its last frame minus its first one, without + 1;
  tubes have no gaps; six of its labels do not count, here a label map that leaves them out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from vmae_det.data.annotations import ActionBoxes
from vmae_det.data.label_map import LabelMap
from vmae_det.data.tubes import Tubes
from vmae_det.evaluation.average_precision import average_precision
from vmae_det.evaluation.frame_map import FrameMAP
from vmae_det.evaluation.matching import box_iou, first_to_each, match
from vmae_det.utils.errors import DataError

# The range that is averaged, as in COCO.
IOU_RANGE = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
# Below, coordinates are relative to the frame; above, they are pixels.
_LARGEST_RELATIVE = 2


@dataclass(frozen=True)
class TubeMatches:
    """Detected tubes by falling score, and the ground-truth tube that each would take.

    Args:
        label_map: the labels that count.
        num_ground_truth: (C,) tubes of each label.
        label: (D,) column of each detected tube.
        score: (D,) falling.
        chosen: (D,) the tube that it overlaps most in space and time, -1 where it overlaps none.
        overlap: (D,) by how much.
    """

    label_map: LabelMap
    num_ground_truth: np.ndarray
    label: np.ndarray
    score: np.ndarray
    chosen: np.ndarray
    overlap: np.ndarray

    def average_precisions(self, iou: float) -> np.ndarray:
        """(C,) AP of each label in [0, 1], NaN without ground truth; UserError unless 0 < iou <= 1."""
        hit = np.zeros(len(self.label), dtype=bool)
        hit[first_to_each(self.chosen, self.overlap, iou)] = True
        counts = enumerate(self.num_ground_truth)
        return np.array([average_precision(hit[self.label == column], count) for column, count in counts])


@dataclass(frozen=True)
class TubeMAP:
    """Frame-mAP and video-mAP of tubes.

    Args:
        frame: frame-mAP at IoU 0.5.
        tubes: what video-mAP is made of.
        ious: its thresholds, besides the mean over `IOU_RANGE`.
        num_tubes, num_boxes: detections given; `tubes` and `frame` know how many of them count.
    """

    frame: FrameMAP
    tubes: TubeMatches
    ious: tuple[float, ...]
    num_tubes: int
    num_boxes: int

    @cached_property
    def video_ap(self) -> dict[str, np.ndarray]:
        """By the threshold, "0.2", or "0.5:0.95" for the mean over the range: (C,) in [0, 1], NaN without
        ground truth."""
        at = {f"{iou:g}": self.tubes.average_precisions(iou) for iou in self.ious}
        return at | {"0.5:0.95": np.mean([self.tubes.average_precisions(iou) for iou in IOU_RANGE], axis=0)}

    @property
    def video_map(self) -> dict[str, float]:
        """Their means over the labels with ground truth."""
        return {iou: float(np.nanmean(ap)) for iou, ap in self.video_ap.items()}

    def to_json(self) -> dict[str, Any]:
        """What json.dump takes; labels without ground truth are left out."""
        columns = np.flatnonzero(self.tubes.num_ground_truth)
        return {
            "frame_mAP": self.frame.mean_ap,
            "video_mAP": self.video_map,
            "per_class": {
                self.tubes.label_map.names[column]: {
                    "frame_ap": float(self.frame.ap[column]),
                    "video_ap": {iou: float(ap[column]) for iou, ap in self.video_ap.items()},
                    "num_tubes": int(self.tubes.num_ground_truth[column]),
                    "num_boxes": int(self.frame.num_ground_truth[column]),
                }
                for column in columns
            },
            "num_detected_tubes": self.num_tubes,
            "num_scored_tubes": len(self.tubes.label),
            "num_detected_boxes": self.num_boxes,
            "num_scored_boxes": self.frame.num_scored,
        }

    def table(self) -> str:
        """The labels with ground truth, by falling frame AP, and the means below."""
        names = self.tubes.label_map.names
        width = max(map(len, ("label", *names)))
        heads = ["frame 0.5", *(f"video {iou}" for iou in self.video_ap)]
        columns = [self.frame.ap, *self.video_ap.values()]
        count = self.tubes.num_ground_truth
        lines = [f"{'label':{width}}  {'  '.join(heads)}  {'tubes':>6}"]
        for i in np.argsort(-self.frame.ap, kind="stable"):
            if count[i]:
                lines.append(_line(names[i], width, heads, [ap[i] for ap in columns], count[i]))
        means = [float(np.nanmean(ap)) for ap in columns]
        lines.append(_line("mAP", width, heads, means, count.sum()))
        scored = f"{len(self.tubes.label)} of {self.num_tubes} tubes"
        lines.append(f"{scored} and {self.frame.num_scored} of {self.num_boxes} boxes scored")
        if self.num_tubes and not len(self.tubes.label):
            lines.append("No detected tube has a video and a label of the ground truth: compare both files.")
        return "\n".join(lines)


def _line(name: str, width: int, heads: list[str], values: list[float], count: int) -> str:
    cells = [f"{100 * value:{len(head)}.2f}" for head, value in zip(heads, values)]
    return f"{name:{width}}  {'  '.join(cells)}  {count:6d}"


def tube_map(
    ground_truth: Tubes,
    detections: Tubes,
    label_map: LabelMap | None = None,
    ious: tuple[float, ...] = (0.2, 0.5),
) -> TubeMAP:
    """Frame-mAP and video-mAP.

    Args:
        label_map: the labels that count, by name; all of the ground truth by default.

    Raises:
        DataError: no ground truth has a label that counts; the files differ in the unit of coordinates.
        UserError: a threshold outside of (0, 1].
    """
    if label_map is None:
        names = tuple(ground_truth.labels)
        label_map = LabelMap(tuple(range(1, len(names) + 1)), names, ("",) * len(names))
    sizes = [float(np.abs(source.boxes).max(initial=0)) for source in (ground_truth, detections)]
    if len(detections) and (sizes[0] > _LARGEST_RELATIVE) != (sizes[1] > _LARGEST_RELATIVE):
        raise DataError(
            f"one file has relative coordinates and the other pixels: they reach {sizes[0]:g} in the ground "
            f"truth and {sizes[1]:g} in the detections"
        )
    sources = []
    for source in (ground_truth, detections):
        video = _positions(source.videos, ground_truth.videos)[source.video]
        column = _positions(source.labels, np.array(label_map.names, dtype=object))[source.label]
        counts = (video >= 0) & (column >= 0)
        sources.append(_Scored(source.select(counts), video[counts], column[counts]))
    truth, found = sources
    if not len(truth.tubes):
        raise DataError("no row of the ground truth counts: none of its labels is in the label map")
    return TubeMAP(
        _frame_map(truth, found, ground_truth.videos, label_map),
        _match_tubes(truth, found, label_map),
        tuple(ious),
        len(np.unique(detections.tube)),
        len(detections),
    )


@dataclass(frozen=True)
class _Scored:
    """Tubes whose video (R,) and label (R,) count: indices in the videos of the ground truth and columns."""

    tubes: Tubes
    video: np.ndarray
    column: np.ndarray

    def frame(self, prefix: str) -> pl.DataFrame:
        """The rows, with their numbers, to be joined."""
        return pl.DataFrame(
            {
                "video": self.video,
                "column": self.column,
                "frame": self.tubes.frame,
                prefix: np.arange(len(self.tubes)),
            }
        )


def _positions(names: np.ndarray, table: np.ndarray) -> np.ndarray:
    """int32 place of each name in the table, -1 where it is absent."""
    place = {name: i for i, name in enumerate(table)}
    return np.array([place.get(name, -1) for name in names], dtype=np.int32)


def _frame_map(truth: _Scored, found: _Scored, videos: np.ndarray, label_map: LabelMap) -> FrameMAP:
    """Each box on its own. A frame without ground truth counts, so it is `slowfast` on rows by score."""
    ids = np.array(label_map.ids, dtype=np.int32)
    boxes = [
        ActionBoxes(
            videos=videos,
            video=source.video,
            timestamp=source.tubes.frame.astype(np.float64),
            boxes=source.tubes.boxes,
            action=ids[source.column],
            score=source.tubes.score,
            person=np.full(len(source.tubes), -1, dtype=np.int32),
        )
        for source in (truth, found)
    ]
    by_score = boxes[1].select(np.argsort(-boxes[1].score, kind="stable"))
    return FrameMAP.from_matches(match(boxes[0], by_score, label_map, protocol="slowfast"))


def _match_tubes(truth: _Scored, found: _Scored, label_map: LabelMap) -> TubeMatches:
    truth_tube, truth_first, truth_frames = np.unique(truth.tubes.tube, return_index=True, return_counts=True)
    found_tube, found_first, found_frames = np.unique(found.tubes.tube, return_index=True, return_counts=True)
    chosen = np.full(len(found_tube), -1, dtype=np.int64)
    overlap = np.zeros(len(found_tube))

    rows = found.frame("found").join(
        truth.frame("truth"), on=["video", "column", "frame"], maintain_order="left_right"
    )
    left, right = rows["found"].to_numpy(), rows["truth"].to_numpy()
    if len(left):
        iou = box_iou(found.tubes.boxes[left], truth.tubes.boxes[right])
        a = np.searchsorted(found_tube, found.tubes.tube[left])
        b = np.searchsorted(truth_tube, truth.tubes.tube[right])
        pair, number, common = np.unique(a * len(truth_tube) + b, return_inverse=True, return_counts=True)
        a, b = np.divmod(pair, len(truth_tube))
        # common / union frames, times sum of IoUs / common.
        total = np.bincount(number, weights=iou) / (found_frames[a] + truth_frames[b] - common)
        best = np.lexsort((b, -total, a))
        a, first = np.unique(a[best], return_index=True)
        chosen[a], overlap[a] = b[best][first], total[best][first]

    score = _mean_scores(found.tubes.score, found_first, found_frames)
    order = np.argsort(-score, kind="stable")
    return TubeMatches(
        label_map,
        np.bincount(truth.column[truth_first], minlength=len(label_map)),
        found.column[found_first][order],
        score[order],
        chosen[order],
        overlap[order],
    )


def _mean_scores(score: np.ndarray, first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """(D,) mean of each run of rows; exactly theirs where they are all alike, so that ties stay ties."""
    if not len(first):
        return np.zeros(0)
    low, high = np.minimum.reduceat(score, first), np.maximum.reduceat(score, first)
    return np.where(low == high, low, np.add.reduceat(score, first) / count)
