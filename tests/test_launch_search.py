"""The search over merge settings: what it may draw for which method."""

from pathlib import Path
from typing import get_args

import numpy as np
import optuna
import pytest

from launch.choice import Outcome
from launch.recipe import SearchMethod, SearchSettings
from launch.search_space import suggest
from merge.recipe import MergeSettings
from tests.measure_search import area

SEARCH = SearchSettings(suite=Path("s.yaml"), patch_weights=(0.5, 2), top_rates=(0.1, 0.4))
FREE = {
    "difference": {"alpha", "beta", "retention", "score", "scope", "top_safety", "top_over_safety"},
    "dense": {"alpha", "beta", "retention"},
    "task_arithmetic": {"alpha", "beta"},
    "dare": {"alpha", "beta", "retention"},
    "ties": {"alpha", "top_safety", "top_over_safety"},
    "linear": {"alpha", "beta"},
}
FREE["intersection"] = FREE["difference"]
"""The parameters in each method's published formula."""


@pytest.mark.parametrize("method", get_args(SearchMethod))
def test_a_method_draws_what_its_formula_has_and_nothing_else(method):
    """A parameter that changes nothing would waste trials; all stay in the recipe's ranges."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    base = MergeSettings(seed=7, exclude=("*mlp*",))
    for _ in range(20):
        trial = study.ask()
        settings = suggest(trial, method, SEARCH, base)
        assert trial.params.keys() == FREE[method]
        assert MergeSettings.model_validate(settings.model_dump()) == settings
        assert (settings.seed, settings.exclude) == (7, ("*mlp*",))
        assert 0.5 <= settings.alpha <= 2 and 0.5 <= settings.beta <= 2
        assert {settings.top_safety, settings.top_over_safety} == {0.2} or (
            min(settings.top_safety, settings.top_over_safety) >= 0.1
            and max(settings.top_safety, settings.top_over_safety) <= 0.4
        )


def test_the_dominated_area_equals_a_count_of_points():
    """Against a plain count over a fine grid, with points that others beat, and equal ones."""
    draw = np.random.default_rng(0)
    front = [Outcome(*draw.integers(0, 11, 2) / 10, 1.0, 0.0) for _ in range(8)]
    centres = (np.arange(100) + 0.5) / 100
    harm, refused = np.meshgrid(centres, centres)
    worse = [(harm > one.harmful_rate) & (refused > one.refusal_rate) for one in front]
    assert area([*front, front[0]]) == pytest.approx(np.any(worse, axis=0).mean())
    assert area([]) == 0
