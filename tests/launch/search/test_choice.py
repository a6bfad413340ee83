"""The rule that chooses merge settings, against enumeration; and the summary over seeds."""

import numpy as np
import pytest
from scipy import stats

from eval.statistics.rates import mean_and_spread
from launch.search.choice import Outcome, choose, pareto_front, violation
from launch.search.settings import SearchSettings
from merge.settings import MergeSettings

SETTINGS = SearchSettings(suite="unused.yaml")  # pyright: ignore[reportArgumentType]
BEFORE = Outcome(harmful_rate=0.6, refusal_rate=0.5, utility=0.8, degenerate_rate=0.0)


def tried(seed: int, count: int = 60) -> list[tuple[MergeSettings, Outcome]]:
    draw = np.random.default_rng(seed)
    return [
        (
            MergeSettings(seed=number),
            Outcome(
                round(draw.random(), 1),
                round(draw.random(), 1),
                draw.choice([0.8, 0.78, 0.7]),
                draw.choice([0.0, 0.01, 0.05]),
            ),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_front_and_choice_equal_enumeration(seed):
    pairs = tried(seed)
    kept = [p for p in pairs if p[1].utility >= 0.78 - 1e-9 and p[1].degenerate_rate <= 0.01 + 1e-9]

    def dominated(p):
        return any(
            q[1].harmful_rate <= p[1].harmful_rate
            and q[1].refusal_rate <= p[1].refusal_rate
            and q[1].harmful_rate + q[1].refusal_rate < p[1].harmful_rate + p[1].refusal_rate
            for q in kept
        )

    assert pareto_front(pairs, BEFORE, SETTINGS) == [p for p in kept if not dominated(p)]
    best = min(max(p[1].harmful_rate / 0.6, p[1].refusal_rate / 0.5) for p in kept)
    outcome = {p[0].seed: p[1] for p in pairs}[choose(BEFORE, pairs, SETTINGS).seed]
    assert max(outcome.harmful_rate / 0.6, outcome.refusal_rate / 0.5) == best
    assert violation(BEFORE, outcome, SETTINGS) == 0


def test_without_any_admissible_setting_the_least_violation_wins():
    bad = Outcome(0, 0, 0.5, 0.0)
    worse = Outcome(0, 0, 0.1, 0.0)
    pairs = [(MergeSettings(seed=0), worse), (MergeSettings(seed=1), bad)]
    assert choose(BEFORE, pairs, SETTINGS).seed == 1
    assert pareto_front(pairs, BEFORE, SETTINGS) == []


def test_interval_over_seeds_equals_scipy():
    values = [0.1, 0.2, 0.15, 0.4, 0.12]
    spread = mean_and_spread(values)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (spread["low"], spread["high"]) == pytest.approx((low, high))
    rare = mean_and_spread([0.0, 0.0, 0.02])
    assert stats.t.interval(0.95, 2, loc=0.02 / 3, scale=stats.sem([0, 0, 0.02]))[0] < 0
    assert rare["low"] == 0 and mean_and_spread([1.0, 1.0, 0.98])["high"] == 1
