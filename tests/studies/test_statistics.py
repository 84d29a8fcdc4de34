"""Statistics of studies against values calculated by hand, or from tables of the t distribution."""

import math

import pytest

from vmae_det.studies.statistics import mean_difference, paired_difference, summarize


def test_mean_and_standard_deviation_of_the_sample():
    summary = summarize([2.0, 4.0, 9.0])
    assert (summary.mean, summary.count) == (5.0, 3)
    assert summary.deviation == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    assert summarize([3.0]).deviation is None
    assert summarize([]).mean is None


def test_the_interval_of_three_pairs():
    """Differences 1, 2, 3: mean 2, standard deviation 1; t of 2 degrees of freedom is 4.302653 (table)."""
    difference = paired_difference({0: 11.0, 1: 22.0, 2: 33.0}, {0: 10.0, 1: 20.0, 2: 30.0})
    assert (difference.mean, difference.count) == (2.0, 3)
    margin = 4.302653 / math.sqrt(3)
    assert (difference.low, difference.high) == pytest.approx((2 - margin, 2 + margin), abs=1e-5)
    # With 2 degrees of freedom, p = 1 - t / sqrt(t^2 + 2) for t = 2 sqrt(3).
    t = 2 * math.sqrt(3)
    assert difference.p == pytest.approx(1 - t / math.sqrt(t * t + 2))
    assert difference.sign == 0


def test_two_seeds_have_one_degree_of_freedom():
    difference = mean_difference([1.0, 2.0])
    assert difference.high - difference.mean == pytest.approx(
        12.7062 * math.sqrt(0.5) / math.sqrt(2), abs=1e-4
    )


def test_only_common_seeds_are_paired():
    difference = paired_difference({0: 5.0, 3: 9.0}, {3: 4.0, 7: 1.0})
    assert (difference.mean, difference.count, difference.low) == (5.0, 1, None)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize(
    ("values", "sign"), [([5.0, 5.1, 4.9], 1), ([-5.0, -5.1, -4.9], -1), ([9.0, -8.0], 0)]
)
def test_the_sign_is_that_of_an_interval_without_0(values, sign):
    assert mean_difference(values).sign == sign


@pytest.mark.parametrize("values", [[0.0, 0.0], [3.3, 3.3, 3.3], [0.1 + 0.2, 0.3], [4.0]])
def test_equal_differences_have_no_interval(values):
    """Accuracies of few videos are often equal. That the spread seems to be 0 does not prove a difference."""
    difference = mean_difference(values)
    assert difference.low is difference.p is None
    assert difference.sign == 0
