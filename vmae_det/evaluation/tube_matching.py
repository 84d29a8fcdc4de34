"""Matching of detected tubes, or of their boxes in frames, to ground truth; AP of each class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from vmae_det.evaluation.average_precision import envelope_area, tied_ranks, trapezoid_area
from vmae_det.formats.box_iou import box_iou
from vmae_det.formats.tube_csv import Tubes


@dataclass(frozen=True)
class MatchingRules:
    """How a benchmark matches detections and computes AP.

    Args:
        takes_next_best: if the best ground truth is taken, the detection takes the next best one. Otherwise
            it is a false positive.
        has_envelope: AP is the area under the envelope of precision. Otherwise it is interpolated linearly.
    """

    takes_next_best: bool
    has_envelope: bool


@dataclass(frozen=True)
class OverlappingPairs:
    """Pairs of a detection and a ground truth that overlap: indices and IoU, each (P,)."""

    detection: np.ndarray
    truth: np.ndarray
    iou: np.ndarray


@dataclass(frozen=True)
class RankedClasses:
    """Detections by class and descending score.

    Args:
        rank: (D,) rank of each detection by descending score, over all classes.
        members: detections of each class by descending score.
        scores: their scores.
        num_truth: (C,) number of ground truths of each class.
    """

    rank: np.ndarray
    members: list[np.ndarray]
    scores: list[np.ndarray]
    num_truth: np.ndarray

    @classmethod
    def from_labels(
        cls, classes: list[str], truth_label: np.ndarray, label: np.ndarray, score: np.ndarray
    ) -> RankedClasses:
        """Rank detections.

        Args:
            classes: C labels.
            truth_label: label of each ground truth.
            label, score: (D,) of each detection.
        """
        descending = np.argsort(-score, kind="stable")
        rank = np.empty(len(descending), dtype=np.int64)
        rank[descending] = np.arange(len(descending))
        members = [descending[label[descending] == name] for name in classes]
        count = np.array([(truth_label == name).sum() for name in classes])
        return cls(rank, members, [score[rows] for rows in members], count)

    def ap(self, pairs: OverlappingPairs, threshold: float, rules: MatchingRules) -> tuple[np.ndarray, int]:
        """Return AP with its range (C, 3), and the number of tied competitors; see VideoMAP."""
        area = envelope_area if rules.has_envelope else trapezoid_area
        hit, num_tied = self._true_positives(pairs, threshold, rules.takes_next_best)
        result = []
        for rows, score, count in zip(self.members, self.scores, self.num_truth):
            first, last = tied_ranks(score, hit[rows])
            result.append([area(rank, count) for rank in (np.flatnonzero(hit[rows]) + 1, last, first)])
        return np.array(result), num_tied

    def _true_positives(
        self, pairs: OverlappingPairs, threshold: float, takes_next_best: bool
    ) -> tuple[np.ndarray, int]:
        """Return a mask (D,) of the true positives, and the number of tied competitors."""
        rank = self.rank[pairs.detection]
        # By score, then by IoU: each detection takes its first ground truth that is free.
        order = np.lexsort((pairs.truth, -pairs.iou, rank))
        if not takes_next_best:
            _, first = np.unique(rank[order], return_index=True)
            order = order[first]
        order = order[pairs.iou[order] >= threshold]
        detections, truths = pairs.detection[order], pairs.truth[order]
        hit = np.zeros(len(self.rank), dtype=bool)
        taken: set[int] = set()
        for detection, truth in zip(detections.tolist(), truths.tolist()):
            if not hit[detection] and truth not in taken:
                hit[detection] = True
                taken.add(truth)
        return hit, self._count_tied(detections, truths) if takes_next_best else 0

    def _count_tied(self, detections: np.ndarray, truths: np.ndarray) -> int:
        """Return the number of detections that compete with another one of equal score for a ground truth."""
        score = np.empty(len(self.rank))
        for rows, values in zip(self.members, self.scores):
            score[rows] = values
        claims = pl.DataFrame({"truth": truths, "score": score[detections], "detection": detections})
        return claims.filter(pl.len().over("truth", "score") > 1)["detection"].n_unique()


def tube_iou(ground_truth: Tubes, detections: Tubes, has_inclusive_frames: bool = True) -> OverlappingPairs:
    """Return the spatio-temporal IoU of all pairs of tubes that share video, label and a frame."""
    shared, iou = _boxes_in_common_frames(ground_truth, detections)
    summed = (
        shared.select("detection", "truth")
        .with_columns(pl.Series("iou", iou))
        .group_by("detection", "truth")
        .agg(pl.col("iou").mean(), pl.len().alias("common"))
        .sort("detection", "truth")
    )
    detection, truth, common = (summed[name].to_numpy() for name in ("detection", "truth", "common"))
    length = [np.bincount(tubes.tube, minlength=len(tubes)) for tubes in (ground_truth, detections)]
    less = 0 if has_inclusive_frames else 1
    union = length[0][truth] + length[1][detection] - common
    temporal_iou = (common.astype(np.int64) - less) / np.maximum(union - less, 1)
    return OverlappingPairs(detection, truth, summed["iou"].to_numpy() * temporal_iou)


def frame_box_iou(ground_truth: Tubes, detections: Tubes) -> OverlappingPairs:
    """Return the IoU of all pairs of boxes that share video, label and frame, as indices of box rows."""
    shared, iou = _boxes_in_common_frames(ground_truth, detections)
    return OverlappingPairs(shared["detection_row"].to_numpy(), shared["truth_row"].to_numpy(), iou)


def _boxes_in_common_frames(ground_truth: Tubes, detections: Tubes) -> tuple[pl.DataFrame, np.ndarray]:
    """Return tube and row of all pairs of boxes that share video, label and frame, and their IoU."""
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
    return shared, iou
