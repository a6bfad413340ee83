"""Rates and their intervals, against scipy and statsmodels."""

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

from eval.statistics.rates import corrected_rate, mean_of_rates, rate, wilson_interval


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


def test_a_perfect_judge_needs_no_correction():
    corrected = corrected_rate(30, 100, (200, 200), (200, 200))
    assert corrected.value == pytest.approx(0.3)
    assert corrected.low < 0.3 < corrected.high


@pytest.mark.parametrize(
    ("positives", "n", "detected", "kept"),
    [
        (40, 250, (120, 142), (604, 608)),
        (90, 150, (60, 80), (45, 50)),
        (120, 400, (70, 90), (90, 100)),
    ],
)
def test_the_corrected_rate_equals_a_simulation(
    positives: int, n: int, detected: tuple[int, int], kept: tuple[int, int]
):
    """Its value is Rogan and Gladen's by hand; its width that of redrawing all three tables."""
    corrected = corrected_rate(positives, n, detected, kept)
    sensitivity, specificity = detected[0] / detected[1], kept[0] / kept[1]
    by_hand = (positives / n + specificity - 1) / (sensitivity + specificity - 1)
    assert corrected.value == pytest.approx(by_hand)
    draw = np.random.default_rng(0)
    shares = [
        draw.binomial(cases, successes / cases, 20000) / cases
        for successes, cases in ((positives, n), detected, kept)
    ]
    redrawn = (shares[0] + shares[2] - 1) / (shares[1] + shares[2] - 1)
    low, high = np.quantile(redrawn, [0.025, 0.975])
    assert corrected.high - corrected.low == pytest.approx(high - low, rel=0.15)
    assert (corrected.low, corrected.high) == pytest.approx((low, high), abs=0.03)


def test_the_corrected_rate_covers_the_truth():
    """A judge that misses 15 % and invents 3 %: the raw rate is biased, the corrected one not."""
    draw, truth, covered, values = np.random.default_rng(0), 0.3, [], []
    for _ in range(1000):
        positives = int(draw.binomial(250, truth * 0.85 + (1 - truth) * 0.03))
        sick, well = int(draw.binomial(140, 0.85)), int(draw.binomial(600, 0.97))
        corrected = corrected_rate(positives, 250, (sick, 140), (well, 600))
        covered.append(corrected.low <= truth <= corrected.high)
        values.append(corrected.value)
    assert np.mean(values) == pytest.approx(truth, abs=0.01)
    assert 0.93 <= np.mean(covered) <= 0.98


def test_a_judge_no_better_than_chance_cannot_be_corrected():
    with pytest.raises(ValueError, match=r"sensitivity 0\.5"):
        corrected_rate(3, 10, (5, 10), (5, 10))


def test_the_mean_of_rates_covers_the_truth_and_has_width_at_the_edges():
    """For one rate it is Wilson's interval; of several it covers their true mean."""
    assert mean_of_rates([rate(3, 40)]) == pytest.approx(rate(3, 40))
    assert mean_of_rates([rate(0, 50), rate(0, 50)]).high > 0
    draw, truths, sizes = np.random.default_rng(0), [0.02, 0.4, 0.75], [120, 60, 300]
    covered = []
    for _ in range(2000):
        mean = mean_of_rates(
            [rate(int(draw.binomial(n, p)), n) for n, p in zip(sizes, truths, strict=True)]
        )
        covered.append(mean.low <= np.mean(truths) <= mean.high)
    assert 0.93 <= np.mean(covered) <= 0.98
