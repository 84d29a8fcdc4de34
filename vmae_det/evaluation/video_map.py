"""Video-mAP, the metric of UCF101-24, JHMDB and MultiSports: average precision of tubes instead of boxes.

Two tubes overlap by the IoU of their frames times the mean IoU of their boxes over the frames that they
share. By falling score, a tube takes the ground-truth tube of its video and class that it overlaps most, of
those that are not taken; below the threshold it is a false positive. Average precision is the area under
precision over recall, point by point from precision 1 at recall 0, without an envelope.

So does the evaluation of the ACT detector (Kalogeiton et al., ICCV 2017), which MultiSports adapted. There,
tubes have no gaps and pixel coordinates are inclusive; see `vmae_det.data.tubes` for the latter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from vmae_det.data.annotations import ActionBoxes
from vmae_det.data.label_map import LabelMap
from vmae_det.data.tubes import Tubes
from vmae_det.evaluation.average_precision import area_under_points
from vmae_det.evaluation.frame_map import FrameMAP, frame_map
from vmae_det.evaluation.matching import box_iou

_AVERAGED = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
_THRESHOLDS = (0.2, *_AVERAGED)


@dataclass(frozen=True)
class VideoMAP:
    """Average precision of tubes, and frame-mAP of their boxes at IoU 0.5.

    Args:
        labels: C names of the ground truth's actions, sorted.
        ap: (C, K) in [0, 1], a column for each of `thresholds`.
        num_ground_truth: (C,) tubes.
        frames: the same files as boxes in frames; all frames count, and boxes choose by falling score.
    """

    labels: tuple[str, ...]
    thresholds: tuple[float, ...]
    ap: np.ndarray
    num_ground_truth: np.ndarray
    num_detections: int
    frames: FrameMAP

    def per_class(self) -> dict[str, np.ndarray]:
        """(C,) AP at 0.2, at 0.5, and the mean over 0.5, 0.55 .. 0.95, by name."""
        averaged = [self.thresholds.index(threshold) for threshold in _AVERAGED]
        columns = {name: self.ap[:, self.thresholds.index(float(name))] for name in ("0.2", "0.5")}
        return columns | {"0.5:0.95": self.ap[:, averaged].mean(axis=1)}

    def to_json(self) -> dict[str, Any]:
        """What json.dump takes."""
        columns = self.per_class()
        per_class = {
            label: {name: float(column[i]) for name, column in columns.items()}
            | {"frame_ap": float(self.frames.ap[i]), "num_ground_truth": int(self.num_ground_truth[i])}
            for i, label in enumerate(self.labels)
        }
        return {
            "video_mAP": {name: float(column.mean()) for name, column in columns.items()},
            "frame_mAP": self.frames.mean_ap,
            "per_class": per_class,
            "num_detections": self.num_detections,
        }

    def table(self) -> str:
        """A line for each class, and the means below."""
        columns = {"frame@0.5": self.frames.ap} | {f"video@{k}": v for k, v in self.per_class().items()}
        width = max(len(name) for name in ("mean", *self.labels))
        lines = [f"{'class':{width}}  " + "  ".join(f"{name:>14}" for name in columns) + "   tubes"]
        rows = [(label, [column[i] for column in columns.values()]) for i, label in enumerate(self.labels)]
        rows.append(("mean", [column.mean() for column in columns.values()]))
        counts = [*self.num_ground_truth, self.num_ground_truth.sum()]
        for (label, values), count in zip(rows, counts):
            cells = "  ".join(f"{100 * value:14.2f}" for value in values)
            lines.append(f"{label:{width}}  {cells}  {count:6d}")
        return "\n".join(lines)


def video_map(ground_truth: Tubes, detections: Tubes) -> VideoMAP:
    """Video-mAP at IoU 0.2, 0.5 and 0.5:0.95, and frame-mAP; classes without ground truth are left out.

    Tubes of equal score are ordered by video id and tube id.
    """
    labels, column = np.unique(ground_truth.label, return_inverse=True)
    count = np.bincount(column, minlength=len(labels))
    falling = np.argsort(-detections.score, kind="stable")
    pairs = tube_overlaps(ground_truth, detections)
    by_label = [falling[detections.label[falling] == label] for label in labels]
    ap = np.empty((len(labels), len(_THRESHOLDS)))
    for k, threshold in enumerate(_THRESHOLDS):
        hit = _true_positives(pairs, falling, threshold)
        ap[:, k] = [area_under_points(hit[tubes], total) for tubes, total in zip(by_label, count)]
    label_map = LabelMap(tuple(range(1, len(labels) + 1)), tuple(labels), ("",) * len(labels))
    frames = frame_map(
        _as_boxes(ground_truth, label_map), _as_boxes(detections, label_map), label_map, protocol="slowfast"
    )
    return VideoMAP(tuple(labels), _THRESHOLDS, ap, count, len(detections), frames)


@dataclass(frozen=True)
class TubePairs:
    """Tubes that share video, label and a frame: indices and overlap, each (P,)."""

    detection: np.ndarray
    truth: np.ndarray
    overlap: np.ndarray


def tube_overlaps(ground_truth: Tubes, detections: Tubes) -> TubePairs:
    """Spatio-temporal IoU of all pairs of tubes that share video, label and a frame."""
    tables = []
    for name, tubes in (("truth", ground_truth), ("detection", detections)):
        tables.append(
            pl.DataFrame(
                {
                    "video": tubes.video[tubes.tube].tolist(),
                    "label": tubes.label[tubes.tube].tolist(),
                    "frame": tubes.frame,
                    name: tubes.tube,
                    f"{name}_row": np.arange(len(tubes.tube)),
                },
                schema_overrides={"video": pl.String, "label": pl.String},
            )
        )
    shared = tables[0].join(tables[1], on=["video", "label", "frame"])
    iou = box_iou(
        detections.boxes[shared["detection_row"].to_numpy()],
        ground_truth.boxes[shared["truth_row"].to_numpy()],
    )
    summed = (
        shared.select("detection", "truth")
        .with_columns(pl.Series("iou", iou))
        .group_by("detection", "truth")
        .agg(pl.col("iou").sum(), pl.len().alias("common"))
        .sort("detection", "truth")
    )
    detection, truth = summed["detection"].to_numpy(), summed["truth"].to_numpy()
    length = [np.bincount(tubes.tube, minlength=len(tubes)) for tubes in (ground_truth, detections)]
    # The IoU of the frames times the mean over the common ones: the latter's number cancels out.
    frames = length[0][truth] + length[1][detection] - summed["common"].to_numpy()
    return TubePairs(detection, truth, summed["iou"].to_numpy() / frames)


def _true_positives(pairs: TubePairs, falling: np.ndarray, threshold: float) -> np.ndarray:
    """(T,) bool: the detected tubes that find a ground-truth tube which no better-scored one took."""
    hit = np.zeros(len(falling), dtype=bool)
    over = np.flatnonzero(pairs.overlap >= threshold)
    rank = np.empty(len(falling), dtype=np.int64)
    rank[falling] = np.arange(len(falling))
    # By score, then by overlap: the first free one is the one to take.
    over = over[np.lexsort((pairs.truth[over], -pairs.overlap[over], rank[pairs.detection[over]]))]
    taken: set[int] = set()
    for detection, truth in zip(pairs.detection[over].tolist(), pairs.truth[over].tolist()):
        if not hit[detection] and truth not in taken:
            hit[detection] = True
            taken.add(truth)
    return hit


def _as_boxes(tubes: Tubes, label_map: LabelMap) -> ActionBoxes:
    """A row for each box, by falling score; the frame's number is the time."""
    rows = np.argsort(-tubes.score[tubes.tube], kind="stable")
    tube = tubes.tube[rows]
    videos, video = np.unique(tubes.video, return_inverse=True)
    ids = dict(zip(label_map.names, label_map.ids))
    action = np.array([ids.get(label, -1) for label in tubes.label], dtype=np.int32)
    return ActionBoxes(
        videos,
        video[tube].astype(np.int32),
        tubes.frame[rows].astype(np.float64),
        tubes.boxes[rows],
        action[tube],
        tubes.score[tube],
        tube.astype(np.int32),
    )
