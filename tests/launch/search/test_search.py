"""The search over merge settings: trials that are done once, and what search.json says of them."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import optuna
import pytest

from launch.search.choice import Outcome
from launch.search.search import search
from launch.search.settings import SearchSettings
from launch.search.space import suggest
from launch.search.storage import Trials
from launch.search.trial_loop import search_method
from launch.search.trial_model import TrialModel
from merge.common.metrics import metrics_file
from merge.settings import MergeSettings
from tests.benchmarks.measure_search import area
from tests.support.tiny_run import make_searched_run

SEARCH = SearchSettings(suite=Path("s.yaml"), patch_weights=(0.5, 2), top_rates=(0.1, 0.4))
BLOCKS = [f"model.layers.{number}" for number in range(12)]


def test_the_dominated_area_equals_a_count_of_points():
    """Against a plain count over a fine grid, with points that others beat, and equal ones."""
    draw = np.random.default_rng(0)
    front = [Outcome(a / 10, b / 10, 1.0, 0.0) for a, b in draw.integers(0, 11, (8, 2))]
    centres = (np.arange(100) + 0.5) / 100
    harm, refused = np.meshgrid(centres, centres)
    worse = [(harm > one.harmful_rate) & (refused > one.refusal_rate) for one in front]
    assert area([*front, front[0]]) == pytest.approx(np.any(worse, axis=0).mean())
    assert area([]) == 0


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
    recipe = make_searched_run(tmp_path, trials=8, screen=0.5, layer_groups=2)
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
    few, many = (make_searched_run(tmp_path, trials=count, random_share=0.5) for count in (4, 10))
    model = Counted(TrialModel.load(few, tmp_path / "backbone"))
    histories = []
    for recipe in (few, many):
        assert recipe.search is not None
        trials = Trials(tmp_path, "difference", recipe.search, recipe.seed)
        histories.append(search_method(model, "difference", recipe, trials))
    assert histories[1][:4] == histories[0]
    assert model.asked == [settings for settings, _ in histories[1]]


@pytest.mark.slow
def test_every_method_has_a_front_and_every_trial_a_json_line(tmp_path):
    """In search.json each trial says whose it is; no two of one front beat each other."""
    recipe = make_searched_run(tmp_path, trials=5, methods=["difference", "dense"])
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
