"""Average precision of PASCAL VOC, and the curve that it is the area under."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall of one class as the score falls, a point for each detection.

    Args:
        score: (N,) falling.
        precision: (N,) of the detections up to this one, in [0, 1].
        recall: (N,) in [0, 1].
    """

    score: np.ndarray
    precision: np.ndarray
    recall: np.ndarray


def average_precision(hit: np.ndarray, num_ground_truth: int) -> float:
    """Area under the monotone envelope of precision over recall (PASCAL VOC 2010 and later).

    Args:
        hit: (N,) bool, whether each detection is a true positive, by falling score.
        num_ground_truth: without any, the result is NaN.
    """
    return envelope_area(np.flatnonzero(hit) + 1, num_ground_truth)


def envelope_area(rank: np.ndarray, num_ground_truth: int) -> float:
    """`average_precision` from the ranks of the true positives among the detections, from 1, rising."""
    if not num_ground_truth:
        return np.nan
    precision = np.arange(1, len(rank) + 1) / rank
    # Between true positives precision falls, so the envelope is the best of the later true positives.
    envelope = np.maximum.accumulate(precision[::-1])
    return float(envelope.sum() / num_ground_truth)


def precision_recall(hit: np.ndarray, score: np.ndarray, num_ground_truth: int) -> PrecisionRecall:
    """The curve of one class; `hit` and `score` (N,) by falling score."""
    true_positives = np.cumsum(hit)
    precision = true_positives / np.arange(1, len(hit) + 1)
    return PrecisionRecall(score, precision, true_positives / max(num_ground_truth, 1))


def points_area(rank: np.ndarray, num_ground_truth: int) -> float:
    """Area under precision over recall, straight from point to point, from precision 1 at recall 0.

    The measure of the ACT detector's evaluation; arguments as of `envelope_area`.
    """
    if not num_ground_truth:
        return np.nan
    number = np.arange(1, len(rank) + 1)
    # The point before a true positive is that of the detection before it; before the first stands 1.
    before = np.where(rank > 1, (number - 1) / np.maximum(rank - 1, 1), 1.0)
    return float(((before + number / rank) / 2).sum() / num_ground_truth)


def tied_ranks(score: np.ndarray, hit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of the true positives, from 1, where they come first among equal scores, and where they come
    last.

    Args:
        score: (N,) falling.
        hit: (N,) bool.
    """
    rising = -score
    value = rising[hit]
    number = np.arange(len(value))
    first, end = np.searchsorted(rising, value, "left"), np.searchsorted(rising, value, "right")
    first_hit, end_hit = np.searchsorted(value, value, "left"), np.searchsorted(value, value, "right")
    return first + number - first_hit + 1, end - (end_hit - 1 - number)
