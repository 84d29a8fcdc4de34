"""Average precision and precision-recall curves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision-recall curve of one class, with one point per detection.

    Args:
        score: (N,) descending.
        precision: (N,) in [0, 1], of the detections with at least this score.
        recall: (N,) in [0, 1].
    """

    score: np.ndarray
    precision: np.ndarray
    recall: np.ndarray


def precision_recall(hit: np.ndarray, score: np.ndarray, num_ground_truth: int) -> PrecisionRecall:
    """Return the curve of one class. `hit` and `score` (N,) are sorted by descending score."""
    true_positives = np.cumsum(hit)
    precision = true_positives / np.arange(1, len(hit) + 1)
    return PrecisionRecall(score, precision, true_positives / max(num_ground_truth, 1))


def average_precision(hit: np.ndarray, num_ground_truth: int) -> float:
    """Return the area under the monotone envelope of precision over recall (PASCAL VOC 2010 and later).

    Args:
        hit: (N,) bool, whether each detection is a true positive, by descending score.
        num_ground_truth: if 0, the result is NaN.
    """
    return envelope_area(np.flatnonzero(hit) + 1, num_ground_truth)


def envelope_area(rank: np.ndarray, num_ground_truth: int) -> float:
    """Return `average_precision` from the ranks of the true positives, which ascend from 1."""
    if not num_ground_truth:
        return np.nan
    precision = np.arange(1, len(rank) + 1) / rank
    # Precision falls between true positives, so the envelope is the maximum over the later true positives.
    envelope = np.maximum.accumulate(precision[::-1])
    return float(envelope.sum() / num_ground_truth)


def trapezoid_area(rank: np.ndarray, num_ground_truth: int) -> float:
    """Return the area under precision over recall with linear interpolation, from precision 1 at recall 0.

    The evaluation of the ACT detector uses it. See `envelope_area` for the arguments.
    """
    if not num_ground_truth:
        return np.nan
    number = np.arange(1, len(rank) + 1)
    # The point before a true positive is that of the previous detection. Before the first detection, it is 1.
    previous = np.where(rank > 1, (number - 1) / np.maximum(rank - 1, 1), 1.0)
    return float(((previous + number / rank) / 2).sum() / num_ground_truth)


def tied_ranks(score: np.ndarray, hit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest ranks that the true positives can have among equal scores, from 1.

    Args:
        score: (N,) descending.
        hit: (N,) bool.

    Returns:
        Ranks if true positives come first among equal scores, and if they come last.
    """
    ascending = -score
    value = ascending[hit]
    number = np.arange(len(value))
    first, end = np.searchsorted(ascending, value, "left"), np.searchsorted(ascending, value, "right")
    first_hit, end_hit = np.searchsorted(value, value, "left"), np.searchsorted(value, value, "right")
    return first + number - first_hit + 1, end - (end_hit - 1 - number)
