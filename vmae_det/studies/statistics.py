"""Statistics of a study: mean and spread over seeds, and paired differences with their t interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import t as student_t

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation of a metric over seeds.

    Args:
        mean: the mean; None without values.
        deviation: standard deviation of the sample (n - 1); None with fewer than two values.
        count: number of values.
    """

    mean: float | None
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Difference:
    """A paired difference of a metric over seeds.

    Args:
        mean: mean of the differences.
        low, high: 95 % interval of the mean by Student's t with n - 1 degrees of freedom. None with fewer
            than two seeds, and if all differences are equal, because their spread is then not known.
        p: two-sided p value of a difference of 0; None without an interval.
        count: number of seeds with both values.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    count: int

    @property
    def sign(self) -> int:
        """1 or -1 if the interval is above or below 0, otherwise 0."""
        if self.low is None or self.high is None:
            return 0
        return (self.low > 0) - (self.high < 0)


def summarize(values: Sequence[float]) -> Summary:
    """Return mean and standard deviation of values."""
    if not values:
        return Summary(None, None, 0)
    return Summary(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def paired_difference(values: Mapping[int, float], base: Mapping[int, float]) -> Difference | None:
    """Return the difference of values to those of a base with the same seeds; None without a common seed.

    Args:
        values, base: value by seed.
    """
    return mean_difference([value - base[seed] for seed, value in values.items() if seed in base])


def mean_difference(differences: Sequence[float]) -> Difference | None:
    """Return the mean of differences, one per seed, with its interval; None without differences."""
    count = len(differences)
    if not count:
        return None
    mean = fmean(differences)
    deviation = stdev(differences) if count > 1 else 0.0
    # Equal differences can differ by rounding.
    if deviation <= 1e-12 * max(map(abs, differences)):
        return Difference(mean, None, None, None, count)
    error = deviation / math.sqrt(count)
    margin = float(student_t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error
    p = 2 * float(student_t.sf(abs(mean) / error, count - 1))
    return Difference(mean, mean - margin, mean + margin, p, count)
