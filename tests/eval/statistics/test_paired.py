"""Paired statistics against statsmodels, scipy and closed forms; verdicts on planted changes."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.inter_rater import cohens_kappa as reference_kappa
from statsmodels.stats.multitest import multipletests

from eval.rates import Completion
from eval.report.verdict import judge_change, overall
from eval.settings import Margins
from eval.statistics.paired import (
    PairCounts,
    difference_interval,
    holm,
    mcnemar_exact,
    paired_bootstrap,
    ratio_bootstrap,
)
from eval.statistics.rates import cohens_kappa

COUNTS = st.tuples(*[st.integers(0, 60)] * 4).filter(lambda cells: sum(cells) > 0)


@given(COUNTS)
def test_mcnemar_equals_statsmodels(cells):
    counts = PairCounts(*cells)
    table = [[counts.both, counts.only_before], [counts.only_after, counts.neither]]
    expected: Any = mcnemar(table, exact=True)
    wanted = min(1.0, expected.pvalue) if cells[1] + cells[2] else 1.0
    assert mcnemar_exact(counts) == pytest.approx(wanted)


def test_newcombe_without_discordant_pairs_equals_its_closed_form():
    """Both shares are 36 of 40, phi = (36 * 4 - 40 / 2) / (36 * 4); the interval has a width."""
    interval = binomtest(36, 40).proportion_ci(method="wilson")
    down, up, phi = 0.9 - interval.low, interval.high - 0.9, 124 / 144
    half = (down**2 - 2 * phi * down * up + up**2) ** 0.5
    assert difference_interval(PairCounts(36, 0, 0, 4)) == pytest.approx((-half, half))


@given(COUNTS)
def test_newcombe_holds_the_difference_and_mirrors(cells):
    counts = PairCounts(*cells)
    low, high = difference_interval(counts)
    assert -1 <= low <= counts.difference <= high <= 1
    swapped = difference_interval(PairCounts(cells[0], cells[2], cells[1], cells[3]))
    assert swapped == pytest.approx((-high, -low))


def test_newcombe_covers_the_truth():
    """Over simulated tables the interval covers the true difference about 95 times in 100."""
    draw = np.random.default_rng(0)
    truth = 0.10 - 0.04
    tables = draw.multinomial(120, [0.3, 0.04, 0.10, 0.56], size=2000)
    covered = [low <= truth <= high for low, high in map(_interval, tables)]
    assert 0.93 <= np.mean(covered) <= 0.98


def _interval(cells):
    return difference_interval(PairCounts(*map(int, cells)))


@pytest.mark.parametrize("seed", range(6))
def test_holm_equals_statsmodels(seed):
    p_values = np.random.default_rng(seed).choice([0.0, 0.004, 0.01, 0.02, 0.3, 1.0], size=seed + 1)
    expected: Any = multipletests(p_values, method="holm")[1]
    assert holm(p_values.tolist()) == pytest.approx(expected.tolist())


def test_paired_bootstrap_agrees_with_the_normal_interval():
    draw = np.random.default_rng(1)
    before = draw.random(400) < 0.4
    after = np.where(draw.random(400) < 0.2, ~before, before)
    change = after.astype(float) - before
    spread = 1.96 * change.std() / 20
    expected = (change.mean() - spread, change.mean() + spread)
    assert paired_bootstrap(before.tolist(), after.tolist()) == pytest.approx(expected, abs=0.01)


def test_the_interval_of_a_ratio_agrees_with_its_linear_approximation():
    """Cases as pairs: what both sides share, here the length of an answer, widens nothing."""
    draw = np.random.default_rng(2)
    tokens = draw.integers(1, 200, 400)
    below = np.stack([0.1 * tokens * draw.uniform(0.9, 1.1, 400), tokens], axis=1)
    above = np.stack([0.2 * tokens * draw.uniform(0.9, 1.1, 400), tokens], axis=1)
    rates = [side[:, 0].sum() / side[:, 1].sum() for side in (above, below)]
    relative = [
        (side[:, 0] - rate * side[:, 1]) / side[:, 0].sum()
        for side, rate in zip((above, below), rates, strict=True)
    ]
    ratio = rates[0] / rates[1]
    spread = 1.96 * ratio * np.sqrt(((relative[0] - relative[1]) ** 2).sum())
    interval = ratio_bootstrap(above.tolist(), below.tolist())
    assert interval == pytest.approx((ratio - spread, ratio + spread), abs=0.2 * spread)
    assert ratio_bootstrap([(1.0, 0), (1.0, 10)], [(1.0, 10)] * 2) == pytest.approx((1.0, 2.0))


@given(st.lists(st.integers(0, 40), min_size=9, max_size=9))
def test_kappa_equals_statsmodels(cells):
    table = np.array(cells).reshape(3, 3) + np.eye(3, dtype=int)
    table[0, 1] += 1
    expected: Any = reference_kappa(table)
    kappa, error = cohens_kappa(table.tolist())
    assert kappa == pytest.approx(expected.kappa)
    assert error == pytest.approx(expected.std_kappa)


def _answers(refused: np.ndarray) -> list[Completion]:
    return [
        Completion(str(i), "s", "refusal", None, "p", "a", "full" if no else "none", None, 1)
        for i, no in enumerate(refused)
    ]


@pytest.mark.parametrize(
    ("n", "refusals", "degenerate", "whole"),
    [
        (400, "no change", "no change", "no change"),
        (100, "undecided", "no change", "undecided"),
    ],
)
def test_a_model_against_itself_has_no_change_if_enough_was_asked(n, refusals, degenerate, whole):
    """The interval of 100 answers that all stay, 30 refused, ends at 2.4 points; the margin is 2.

    Degenerate answers have no prompts of their own: it is enough that none changed.
    """
    answers = _answers(np.arange(n) < 0.3 * n)
    verdict = judge_change(answers, answers, Margins())
    assert {axis: entry["verdict"] for axis, entry in verdict["axes"].items()} == {
        "refusal_rate": refusals,
        "degenerate_rate": degenerate,
    }
    assert verdict["overall"] == whole


def test_planted_flips_are_found_with_their_size():
    before = np.arange(400) < 120
    after = np.arange(400) < 40
    verdict = judge_change(_answers(before), _answers(after), Margins())
    assert verdict["axes"]["refusal_rate"]["difference"] == pytest.approx(-0.2)
    assert verdict["axes"]["refusal_rate"]["verdict"] == "improved"
    assert verdict["overall"] == "improved"
    back = judge_change(_answers(after), _answers(before), Margins())
    assert back["overall"] == "worse"


def test_a_verdict_on_many_answers_needs_no_memory_beside_them():
    """Tests and intervals are of counts: 20,000 pairs are some lists of 160 kB, no matrix."""
    first, second = _answers(np.arange(20_000) < 6_000), _answers(np.arange(20_000) < 5_900)
    tracemalloc.start()
    judge_change(first, second, Margins())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_few_answers_leave_it_undecided():
    verdict = judge_change(_answers(np.arange(20) < 5), _answers(np.arange(20) < 6), Margins())
    assert verdict["overall"] == "undecided"


def test_false_alarms_stay_at_the_level():
    """500 comparisons of models that answer alike: at most 5 % end as improved or worse."""
    draw = np.random.default_rng(2)
    alarms = 0
    for _ in range(500):
        hard = draw.random(150)
        first, second = (_answers(draw.random(150) < 0.2 + 0.6 * (hard < 0.3)) for _ in "ab")
        alarms += judge_change(first, second, Margins())["overall"] in {"improved", "worse"}
    assert alarms <= 25


def test_one_bad_axis_spoils_the_whole():
    assert overall({"harmful_rate": "improved", "utility": "worse"}) == "worse"
    assert overall({"harmful_rate": "improved", "utility": "not worse"}) == "improved"
