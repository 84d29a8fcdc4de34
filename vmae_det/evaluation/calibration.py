"""Whether scores are probabilities: of the rows with a score near s, a share of s should be right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Calibration:
    """Scores in bins of equal width over [0, 1].

    Args:
        count: (B,) rows in each bin.
        score: (B,) their mean score; NaN where there are none.
        precision: (B,) the share of them that are true positives; NaN where there are none.
    """

    count: np.ndarray
    score: np.ndarray
    precision: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error (Naeini et al., 2015): the mean distance of both, by rows."""
        distance = np.nan_to_num(np.abs(self.score - self.precision))
        return float((distance * self.count).sum() / self.count.sum()) if self.count.sum() else 0.0


def calibrate(score: np.ndarray, hit: np.ndarray, bins: int = 10) -> Calibration | None:
    """The calibration of scores (N,) of which `hit` (N,) are right; None where scores leave [0, 1]."""
    if len(score) and (score.min() < 0 or score.max() > 1):
        return None
    place = np.minimum((score * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, score, bins) / count
        precision = np.bincount(place, hit, bins) / count
    return Calibration(count, mean, precision)
