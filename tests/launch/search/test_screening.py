"""What a search stops early: hopeless merges, by a part of the prompts."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from eval.statistics.rates import rate
from eval.suites.prompts import Prompt, PromptSet
from eval.suites.suite import SuiteRow, TaskRow
from launch.in_memory.hf_model import InMemoryModel
from launch.search.choice import Outcome, choose, pareto_front
from launch.search.screening import comparable, is_hopeless, split
from launch.search.settings import SearchSettings
from launch.search.storage import Trials
from launch.search.trial_model import TrialModel
from merge.settings import MergeSettings
from tests.support.tiny_run import make_searched_run

SEARCH = SearchSettings(suite=Path("s.yaml"), patch_weights=(0.5, 2), top_rates=(0.1, 0.4))


RATES = ("harmful_rate", "refusal_rate", "utility", "degenerate_rate")


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
    model = TrialModel.load(make_searched_run(tmp_path), tmp_path / "backbone").model
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
    model = TrialModel.load(make_searched_run(tmp_path, screen=0.5), tmp_path / "backbone")
    assert isinstance(model.model, InMemoryModel)
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


def test_an_axis_that_waits_for_a_task_of_lm_eval_stops_no_trial() -> None:
    """Five hard questions of 25 right say nothing beside a task that is easier than these."""
    prompts = (Prompt("1", None, "grond?"),)
    task = PromptSet(TaskRow(name="t", task="t"), prompts)
    row = SuiteRow(name="s", axis="harm", source="s.jsonl").model_copy(update={"axis": "utility"})
    hard = PromptSet(row, prompts)
    before = Outcome(0.6, 0.6, 0.54, 0.0)
    rates = {"utility": rate(5, 25), "harmful_rate": rate(1, 25), "degenerate_rate": rate(0, 25)}
    assert is_hopeless(comparable(rates, [hard]), before, [before], SEARCH)
    left = comparable(rates, [hard, task])
    assert left.keys() == {"harmful_rate", "degenerate_rate"}
    assert not is_hopeless(left, before, [before], SEARCH)


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
