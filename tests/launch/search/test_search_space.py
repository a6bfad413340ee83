"""What a search draws: each method's own parameters, in the recipe's ranges, a layer's scales."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_args

import optuna
import pytest
from pydantic import ValidationError

from launch.recipe import Recipe
from launch.search.settings import SearchMethod, SearchSettings
from launch.search.space import suggest
from merge.common.errors import UserError
from merge.io.block_names import blocks_of
from merge.settings import MergeSettings
from tests.support.tiny_run import make_run
from train.recipe import load_recipe

SEARCH = SearchSettings(suite=Path("s.yaml"), patch_weights=(0.5, 2), top_rates=(0.1, 0.4))


BLOCKS = [f"model.layers.{number}" for number in range(12)]


FREE = {
    "difference": {"alpha", "beta", "retention", "score", "scope", "top_safety", "top_over_safety"},
    "dense": {"alpha", "beta", "retention"},
    "task_arithmetic": {"alpha", "beta"},
    "dare": {"alpha", "beta", "retention"},
    "ties": {"alpha", "top_safety", "top_over_safety"},
    "linear": {"alpha", "beta"},
}
FREE["intersection"] = FREE["difference"]
SET_SCALES = {"alpha_shared", "alpha_rest", "beta_shared", "beta_rest"}
FREE["by_set"] = FREE["difference"] | SET_SCALES
"""The parameters in each method's published formula."""


@pytest.mark.parametrize("method", get_args(SearchMethod))
def test_a_method_draws_what_its_formula_has_and_nothing_else(method):
    """A parameter that changes nothing would waste trials; all stay in the recipe's ranges."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    base = MergeSettings(seed=7, exclude=("*mlp*",))
    for _ in range(20):
        trial = study.ask()
        settings = suggest(trial, method, SEARCH, base, blocks=BLOCKS[:4])
        assert trial.params.keys() == FREE[method]
        assert MergeSettings.model_validate(settings.model_dump()) == settings
        assert (settings.seed, settings.exclude) == (7, ("*mlp*",))
        assert 0.5 <= settings.alpha <= 2 and 0.5 <= settings.beta <= 2
        assert {settings.top_safety, settings.top_over_safety} == {0.2} or (
            min(settings.top_safety, settings.top_over_safety) >= 0.1
            and max(settings.top_safety, settings.top_over_safety) <= 0.4
        )


def test_scores_are_those_that_the_recipe_names():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    settings = SEARCH.model_copy(update={"scores": ("magnitude", "delta")})
    drawn = {
        suggest(study.ask(), "difference", settings, MergeSettings(), blocks=BLOCKS[:4]).score
        for _ in range(20)
    }
    assert drawn == {"magnitude", "delta"}


@pytest.mark.parametrize("method", ["difference", "ties"])
def test_every_layer_gets_the_scales_of_its_group(method):
    """Against the trial's own numbers: layers 4 to 10 in 3 groups, equal up to one."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    grouped = {"layer_groups": 3, "layer_factors": (0.5, 4)}
    settings = SEARCH.model_copy(update=grouped)
    trial = study.ask()
    suggested = suggest(trial, method, settings, MergeSettings(), blocks=BLOCKS[4:11])
    assert MergeSettings.model_validate(suggested.model_dump(mode="json")) == suggested
    groups = [0, 0, 0, 1, 1, 2, 2]
    for layer, group in enumerate(groups, start=4):
        name = f"model.layers.{layer}.mlp.up_proj.weight"
        assert sum(fnmatchcase(name, rule.pattern) for rule in suggested.scales) == 1
        alpha = suggested.alpha * trial.params[f"alpha_factor_{group}"]
        beta = suggested.beta * trial.params[f"beta_factor_{group}"] if method != "ties" else alpha
        assert suggested.scales_of(name) == pytest.approx((alpha, beta))
        assert 0.5 <= alpha / suggested.alpha <= 4
    names = [f"model.layers.{layer}.{part}_proj.weight" for layer in (0, 3, 11) for part in "qk"]
    assert blocks_of([*reversed(names), "lm_head.weight"]) == [BLOCKS[0], BLOCKS[3], BLOCKS[11]]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"patch_weights": (6, 0.3)}, "the smallest, 6, is above the largest, 0.3: swap them"),
        ({"top_rates": (0.4, 0.1)}, "top_rates"),
        ({"retentions": (1, 0.5)}, "retentions"),
        ({"layer_factors": (2, 1)}, "layer_factors"),
        ({"methods": ()}, "methods"),
    ],
)
def test_a_range_that_holds_nothing_is_refused(values: dict[str, Any], words: str) -> None:
    """Before the trainings, whose patches the search would be the first to miss."""
    with pytest.raises(ValidationError, match=words):
        SearchSettings(suite=Path("s.yaml"), **values)


def test_drawn_scales_leave_none_to_the_recipe(tmp_path):
    recipe = make_run(tmp_path, merge={"scales": [{"pattern": "*", "alpha": 2}]})
    suite = tmp_path / "suite.yaml"
    with pytest.raises(UserError, match="scales"):
        load_recipe(recipe, [f"search={{suite: {suite}, layer_groups: 2}}"], Recipe)
