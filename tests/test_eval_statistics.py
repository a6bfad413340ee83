"""Rates and their intervals, against scipy and statsmodels."""

import pytest
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

from eval.statistics import rate, wilson_interval


@pytest.mark.parametrize(
    ("successes", "n"), [(0, 520), (520, 520), (0, 1), (1, 1), (1, 2), (37, 450)]
)
def test_wilson_equals_scipy_and_statsmodels(successes: int, n: int):
    low, high = wilson_interval(successes, n)
    expected = binomtest(successes, n).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert (low, high) == pytest.approx(
        proportion_confint(successes, n, method="wilson"), abs=1e-12
    )


def test_wilson_has_width_at_the_edges():
    assert wilson_interval(0, 520)[0] == 0.0
    assert wilson_interval(0, 520)[1] == pytest.approx(0.0073, abs=1e-4)
    assert wilson_interval(520, 520)[1] == 1.0


def test_no_case_means_nothing_is_known():
    assert rate(0, 0) == (0.0, 0.0, 1.0, 0)


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="3 successes of 2"):
        wilson_interval(3, 2)
