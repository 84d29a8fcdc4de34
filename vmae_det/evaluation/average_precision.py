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
    if not num_ground_truth:
        return np.nan
    rank = np.flatnonzero(hit) + 1
    precision = np.arange(1, len(rank) + 1) / rank
    # Between true positives precision falls, so the envelope is the best of the later true positives.
    envelope = np.maximum.accumulate(precision[::-1])
    return float(envelope.sum() / num_ground_truth)


def precision_recall(hit: np.ndarray, score: np.ndarray, num_ground_truth: int) -> PrecisionRecall:
    """The curve of one class; `hit` and `score` (N,) by falling score."""
    true_positives = np.cumsum(hit)
    precision = true_positives / np.arange(1, len(hit) + 1)
    return PrecisionRecall(score, precision, true_positives / max(num_ground_truth, 1))


def area_under_points(hit: np.ndarray, num_ground_truth: int) -> float:
    """Area under precision over recall, straight from point to point, from precision 1 at recall 0.

    The measure of the ACT detector's and MultiSports' evaluation; `hit` (N,) bool by falling score.
    """
    true_positives = np.concatenate([[0], np.cumsum(hit)])
    precision = np.concatenate([[1.0], true_positives[1:] / np.arange(1, len(hit) + 1)])
    heights = (precision[1:] + precision[:-1]) / 2
    return float((np.diff(true_positives) * heights).sum() / num_ground_truth)
