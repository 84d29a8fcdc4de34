"""Which detected tube, or box, finds which of the ground truth, and the average precision of each class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from vmae_det.evaluation.average_precision import envelope_area, points_area, tied_ranks
from vmae_det.evaluation.matching import box_iou
from vmae_det.evaluation.tube_protocols import Rules
from vmae_det.formats.tube_csv import Tubes


@dataclass(frozen=True)
class Pairs:
    """Detections and ground truth that overlap: indices and overlap, each (P,)."""

    detection: np.ndarray
    truth: np.ndarray
    overlap: np.ndarray


@dataclass(frozen=True)
class RankedClasses:
    """Detections by class and falling score.

    Args:
        rank: (D,) of each detection by falling score, over all classes.
        members: of each class its detections by falling score.
        scores: of these.
        num_truth: (C,) ground truth of each class.
    """

    rank: np.ndarray
    members: list[np.ndarray]
    scores: list[np.ndarray]
    num_truth: np.ndarray

    @classmethod
    def of(cls, labels: list[str], truth: np.ndarray, found: np.ndarray, score: np.ndarray) -> RankedClasses:
        """Of `labels`, with the label of each ground truth and detection, and the latter's scores."""
        falling = np.argsort(-score, kind="stable")
        rank = np.empty(len(falling), dtype=np.int64)
        rank[falling] = np.arange(len(falling))
        members = [falling[found[falling] == label] for label in labels]
        count = np.array([(truth == label).sum() for label in labels])
        return cls(rank, members, [score[rows] for rows in members], count)

    def ap(self, pairs: Pairs, threshold: float, rules: Rules) -> tuple[np.ndarray, int]:
        """(C, 3) AP with its range, and the number of rivals; see VideoMAP."""
        area = envelope_area if rules.has_envelope else points_area
        hit, num_rivals = self._true_positives(pairs, threshold, rules.takes_next_best)
        result = []
        for rows, score, count in zip(self.members, self.scores, self.num_truth):
            first, last = tied_ranks(score, hit[rows])
            result.append([area(rank, count) for rank in (np.flatnonzero(hit[rows]) + 1, last, first)])
        return np.array(result), num_rivals

    def _true_positives(
        self, pairs: Pairs, threshold: float, takes_next_best: bool
    ) -> tuple[np.ndarray, int]:
        """(D,) bool: the detections that find ground truth which no better-scored one took; and rivals."""
        rank = self.rank[pairs.detection]
        # By score, then by overlap: the first free one is the one to take.
        order = np.lexsort((pairs.truth, -pairs.overlap, rank))
        if not takes_next_best:
            _, first = np.unique(rank[order], return_index=True)
            order = order[first]
        order = order[pairs.overlap[order] >= threshold]
        detections, truths = pairs.detection[order], pairs.truth[order]
        hit = np.zeros(len(self.rank), dtype=bool)
        taken: set[int] = set()
        for detection, truth in zip(detections.tolist(), truths.tolist()):
            if not hit[detection] and truth not in taken:
                hit[detection] = True
                taken.add(truth)
        return hit, self._count_rivals(detections, truths) if takes_next_best else 0

    def _count_rivals(self, detections: np.ndarray, truths: np.ndarray) -> int:
        score = np.empty(len(self.rank))
        for rows, values in zip(self.members, self.scores):
            score[rows] = values
        claims = pl.DataFrame({"truth": truths, "score": score[detections], "detection": detections})
        return claims.filter(pl.len().over("truth", "score") > 1)["detection"].n_unique()


def tube_overlaps(ground_truth: Tubes, detections: Tubes, has_inclusive_frames: bool = True) -> Pairs:
    """Spatio-temporal IoU of all pairs of tubes that share video, label and a frame."""
    shared, iou = _shared_frames(ground_truth, detections)
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
    share = (common.astype(np.int64) - less) / np.maximum(union - less, 1)
    return Pairs(detection, truth, summed["iou"].to_numpy() * share)


def box_overlaps(ground_truth: Tubes, detections: Tubes) -> Pairs:
    """IoU of all pairs of boxes that share video, label and frame: indices in the order of their rows."""
    shared, iou = _shared_frames(ground_truth, detections)
    return Pairs(shared["detection_row"].to_numpy(), shared["truth_row"].to_numpy(), iou)


def _shared_frames(ground_truth: Tubes, detections: Tubes) -> tuple[pl.DataFrame, np.ndarray]:
    """Tube and row of all pairs of boxes that share video, label and frame, and their IoU."""
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
