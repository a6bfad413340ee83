"""The search over merge settings: what it may draw for which method."""

from pathlib import Path
from typing import get_args

import optuna
import pytest

from launch.recipe import SearchMethod, SearchSettings
from launch.search import suggest
from merge.recipe import MergeSettings

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
