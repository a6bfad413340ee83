"""The search over merge settings: what it draws, what it stops early, and workers that share it."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import optuna
import pytest
from scipy.stats import binomtest

from eval.statistics.rates import rate
from launch.recipe import Recipe
from launch.search.choice import Outcome, choose, pareto_front
from launch.search.screening import is_hopeless, split
from launch.search.search import search
from launch.search.settings import SearchMethod, SearchSettings
from launch.search.space import suggest
from launch.search.storage import Trials
from launch.search.trial_loop import search_method
from launch.search.trial_model import TrialModel
from merge.common.errors import UserError
from merge.common.metrics import metrics_file
from merge.io.block_names import blocks_of
from merge.settings import MergeSettings
from tests.benchmarks.measure_search import area
from tests.support.tiny_run import make_run
from train.recipe import load_recipe

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
SET_SCALES = {"alpha_shared", "alpha_rest", "beta_shared", "beta_rest"}
FREE["by_set"] = FREE["difference"] | SET_SCALES
"""The parameters in each method's published formula."""


RATES = ("harmful_rate", "refusal_rate", "utility", "degenerate_rate")


BLOCKS = [f"model.layers.{number}" for number in range(12)]


def tiny(folder: Path, **changes: Any) -> Recipe:
    """A run that is ready to be searched; its margins let every merge pass."""
    settings = {"suite": str(folder / "suite.yaml"), "utility_margin": 1, "degenerate_margin": 1}
    return load_recipe(make_run(folder, search={**settings, **changes}), [], Recipe)


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


def test_the_dominated_area_equals_a_count_of_points():
    """Against a plain count over a fine grid, with points that others beat, and equal ones."""
    draw = np.random.default_rng(0)
    front = [Outcome(a / 10, b / 10, 1.0, 0.0) for a, b in draw.integers(0, 11, (8, 2))]
    centres = (np.arange(100) + 0.5) / 100
    harm, refused = np.meshgrid(centres, centres)
    worse = [(harm > one.harmful_rate) & (refused > one.refusal_rate) for one in front]
    assert area([*front, front[0]]) == pytest.approx(np.any(worse, axis=0).mean())
    assert area([]) == 0


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
    with pytest.raises(UserError, match="layer_groups"):
        suggest(study.ask(), method, settings, MergeSettings(), blocks=BLOCKS[:2])


def test_drawn_scales_leave_none_to_the_recipe(tmp_path):
    recipe = make_run(tmp_path, merge={"scales": [{"pattern": "*", "alpha": 2}]})
    suite = tmp_path / "suite.yaml"
    with pytest.raises(UserError, match="scales"):
        load_recipe(recipe, [f"search={{suite: {suite}, layer_groups: 2}}"], Recipe)


@pytest.mark.parametrize("seed", range(3))
def test_hopeless_is_what_scipys_interval_says(seed):
    draw = np.random.default_rng(seed)
    before = Outcome(0.6, 0.6, 0.8, 0.02)
    kept = [Outcome(0.3, 0.1, 0.8, 0.0), Outcome(0.05, 0.4, 0.8, 0.0)]
    verdicts = set()
    for _ in range(300):
        counts = {axis: int(draw.integers(0, 31)) for axis in RATES}
        if draw.random() < 0.7:
            counts |= {"utility": 25, "degenerate_rate": 0}
        intervals = {
            axis: binomtest(count, 30).proportion_ci(0.95, "wilson")
            for axis, count in counts.items()
        }
        harm, refusal = intervals["harmful_rate"].low, intervals["refusal_rate"].low
        expected = (
            (harm > 0.3 and refusal > 0.1)
            or (harm > 0.05 and refusal > 0.4)
            or intervals["utility"].high < 0.8 - SEARCH.utility_margin
            or intervals["degenerate_rate"].low > 0.02 + SEARCH.degenerate_margin
        )
        rates = {axis: rate(count, 30) for axis, count in counts.items()}
        assert is_hopeless(rates, before, kept, SEARCH) == expected
        assert not is_hopeless(rates, before, [], SEARCH)
        verdicts.add(expected)
    assert verdicts == {True, False}


def test_the_first_prompts_are_spread_evenly_and_every_prompt_is_in_one_part(tmp_path):
    model = TrialModel.load(tiny(tmp_path), tmp_path / "backbone").model
    for share in (0.25, 0.5, 0.9):
        first, later = split(model.prompt_sets, share)
        for whole in model.prompt_sets:
            parts = [
                [
                    prompt
                    for prompt_set in part
                    if prompt_set.row == whole.row
                    for prompt in prompt_set.prompts
                ]
                for part in (first, later)
            ]
            assert len(parts[0]) == math.floor(9 * share)
            assert sorted(parts[0] + parts[1], key=lambda prompt: int(prompt.id)) == list(
                whole.prompts
            )
            places = [int(prompt.id) for prompt in parts[0]]
            assert max(np.diff(places), default=9) <= math.ceil(1 / share)


def test_a_screened_trial_has_the_rates_of_its_part_and_others_those_of_all(tmp_path):
    """Against the plain evaluation of all prompts and of the first ones; none is asked twice."""
    model = TrialModel.load(tiny(tmp_path, screen=0.5), tmp_path / "backbone")
    asked: list[str] = []
    answers = model.model.answers

    def counted(prompt_sets: Any) -> Any:
        asked.extend(f"{p.row.name}/{each.id}" for p in prompt_sets for each in p.prompts)
        return answers(prompt_sets)

    model.model.answers = counted  # pyright: ignore[reportAttributeAccessIssue]
    merge = MergeSettings(alpha=2, retention=0.5)
    whole = {axis: rate.value for axis, rate in model.model.rates(merge).items()}
    goes_on = model.outcome(merge, [Outcome(1, 1, 1, 0)])
    assert goes_on == Outcome(**whole)  # pyright: ignore[reportArgumentType]
    assert len(asked) == len(set(asked)) == 27
    asked.clear()
    strict = replace(model, search=model.search.model_copy(update={"degenerate_margin": -1.0}))
    stopped = strict.outcome(merge, [Outcome(0, 0, 1, 0)])
    assert stopped.screened and len(asked) == len(set(asked)) == 12
    first, _ = split(model.model.prompt_sets, 0.5)
    part = replace(model.model, prompt_sets=first).rates(merge)
    assert stopped.rates() == {axis: part[axis].value for axis in stopped.rates()}


def test_screened_trials_are_neither_chosen_nor_on_the_front_and_are_read_back(tmp_path):
    before, good = Outcome(0.5, 0.5, 0.5, 0), Outcome(0.2, 0.2, 0.5, 0)
    tried = [
        (MergeSettings(seed=0), good),
        (MergeSettings(seed=1), Outcome(0, 0, 0.5, 0, screened=True)),
    ]
    assert choose(before, tried, SEARCH).seed == 0
    assert pareto_front(tried, before, SEARCH) == tried[:1]
    trials = Trials(tmp_path, "x", SEARCH, 0)
    for settings, outcome in tried:
        trials.tell(trials.begin(), settings, outcome, before)
    assert list(Trials(tmp_path, "x", SEARCH, 0).done().values()) == tried


class Counted:
    """A model that counts what it is asked, and fails after so many merges."""

    def __init__(self, model: TrialModel, until: int = 100) -> None:
        self.before, self.blocks = model.before, model.blocks
        self.model, self.until = model, until
        self.asked: list[MergeSettings] = []

    def outcome(self, settings: MergeSettings, kept: Sequence[Outcome]) -> Outcome:
        if len(self.asked) == self.until:
            raise KeyboardInterrupt
        self.asked.append(settings)
        return self.model.outcome(settings, kept)


def test_a_search_goes_on_as_if_it_had_not_been_stopped(tmp_path):
    """Stopped in a trial at random and in one that TPE drew: the same trials, none asked twice."""
    recipe = tiny(tmp_path, trials=8, screen=0.5, layer_groups=2)
    model = TrialModel.load(recipe, tmp_path / "backbone")
    assert recipe.search is not None
    parts = ("difference", recipe.search, recipe.seed)
    (tmp_path / "whole").mkdir()
    whole = search_method(model, "difference", recipe, Trials(tmp_path / "whole", *parts))
    (tmp_path / "part").mkdir()
    asked: list[MergeSettings] = []
    for until in (1, 4):
        stopped = Counted(model, until)
        with pytest.raises(KeyboardInterrupt):
            search_method(stopped, "difference", recipe, Trials(tmp_path / "part", *parts))
        asked += stopped.asked
    last = Counted(model)
    again = search_method(last, "difference", recipe, Trials(tmp_path / "part", *parts))
    assert again == whole
    assert [*asked, *last.asked] == [settings for settings, _ in whole]


def test_a_draw_that_was_stopped_is_drawn_anew(tmp_path):
    """A signal between two of its values: the trial is that of a search that was not stopped."""
    settings = SEARCH.model_copy(update={"trials": 3})
    draw = partial(
        suggest, method="difference", settings=settings, base=MergeSettings(), blocks=BLOCKS
    )

    def stopped(trial: optuna.Trial) -> MergeSettings:
        trial.suggest_float("alpha", *settings.patch_weights, log=True)
        raise KeyboardInterrupt

    drawn = []
    for folder, is_stopped in (("whole", False), ("stopped", True)):
        (tmp_path / folder).mkdir()
        trials = Trials(tmp_path / folder, "difference", settings, 0)
        if is_stopped:
            with pytest.raises(KeyboardInterrupt):
                trials.claim(stopped)
            trials = Trials(tmp_path / folder, "difference", settings, 0)
            trials.ask_again()
        claimed = trials.claim(draw)
        assert claimed is not None
        drawn.append(claimed[1])
    assert drawn[0] == drawn[1]


def test_more_trials_go_on_from_those_that_are_there(tmp_path):
    few, many = (tiny(tmp_path, trials=count, random_share=0.5) for count in (4, 10))
    model = Counted(TrialModel.load(few, tmp_path / "backbone"))
    histories = []
    for recipe in (few, many):
        assert recipe.search is not None
        trials = Trials(tmp_path, "difference", recipe.search, recipe.seed)
        histories.append(search_method(model, "difference", recipe, trials))
    assert histories[1][:4] == histories[0]
    assert model.asked == [settings for settings, _ in histories[1]]


def test_every_method_has_a_front_and_every_trial_a_json_line(tmp_path):
    """In search.json each trial says whose it is; no two of one front beat each other."""
    recipe = tiny(tmp_path, trials=5, methods=["difference", "dense"])
    with metrics_file(recipe.output, "search"):
        search(recipe, tmp_path / "backbone", recipe.output / "search")
    trials = json.loads((recipe.output / "search/search.json").read_text())["trials"]
    assert [trial["method"] for trial in trials] == ["difference"] * 5 + ["dense"] * 5
    for method in ("difference", "dense"):
        mine = [trial for trial in trials if trial["method"] == method]
        rates = [(trial["harmful_rate"], trial["refusal_rate"]) for trial in mine]
        for trial, (harm, refused) in zip(mine, rates, strict=True):
            beaten = any(h <= harm and r <= refused and (h, r) != (harm, refused) for h, r in rates)
            assert trial["pareto"] is not beaten
    assert sum(trial["chosen"] for trial in trials) == 1
    lines = (recipe.output / "metrics/search.jsonl").read_text().splitlines()
    told = [line for line in map(json.loads, lines) if "trial" in line]
    assert [line["trial"] for line in told] == [*range(5)] * 2
    for trial, line in zip(trials, told, strict=True):
        tag = f"search_{trial['method']}/harmful_rate(fraction)"
        assert line[tag] == trial["harmful_rate"]
