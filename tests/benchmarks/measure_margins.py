"""What ways to search are worth in equal time, on fresh prompts: ``make measure-margins``.

    python -m tests.benchmarks.measure_margins RUN [--seeds 3] [key=value ...]

RUN is a run folder whose patches are still there, with a recipe that searches by margins and fits
scales, as ``launch search launch/recipes/demo.yaml keep_intermediates=true`` leaves it. For every
seed of the sampler that search runs to its end, with the recipe's first method; then each other way
gets the same seconds: margins with drawn scales, one for each patch or one for each group of
layers, and answers, which try as many merges as fit in. Every merge that was asked for answers and
stands on its way's front is asked the prompts of the recipe's evaluation, on which nothing was
chosen; what counts is the area that a front dominates there in (harm, refusals), of 1 (issue 14).
"""

import argparse
import contextlib
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from eval.suites.prompts import load_prompts
from eval.suites.suite import load_suite
from launch.in_memory.hf_model import InMemoryModel
from launch.recipe import Recipe
from launch.search.choice import Outcome, Trial, choose, pareto_front
from launch.search.margin_search import PoorMargins, search_by_margins
from launch.search.search import search
from launch.search.settings import SearchMethod
from launch.search.storage import Trials
from launch.search.trial_loop import TrialSource, search_method
from launch.search.trial_model import TrialModel, outcome_of
from merge.common.files import make_directory, read_json
from merge.settings import MergeSettings
from tests.benchmarks.measure_search import area
from train.backbone.folder import backbone_directory
from train.recipe import load_recipe

_MANY = 100_000
"""Trials: the clock ends a search."""
_RANDOM_SHARE = 10 / _MANY
"""The first ten are drawn at random."""
_FITTED = "margins, fitted"
_DRAWN = {
    "margins, global scales": {"fit": "none"},
    "margins, scales of 3 layer groups": {"fit": "none", "layer_groups": 3},
}
_ANSWERS = "answers"
_WAYS = (_FITTED, *_DRAWN, _ANSWERS)


class _TimeIsUpError(Exception):
    pass


def main() -> None:
    """Parse the command line, search, and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.measure_margins", description=__doc__
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args()
    recipe = load_recipe(options.run / "recipe.yaml", options.overrides, Recipe)
    folder = options.run / "measure-margins"
    rows = [measure(recipe, folder / str(seed), seed) for seed in range(options.seeds)]
    Console(width=120).print(table(rows))


def measure(recipe: Recipe, folder: Path, seed: int) -> dict[str, Any]:
    """All searches of one seed, and what their fronts do on fresh prompts."""
    assert recipe.search is not None
    settings = recipe.search.model_copy(update={"methods": recipe.search.methods[:1]})
    recipe = recipe.model_copy(update={"seed": seed, "search": settings})
    backbone = backbone_directory(recipe.backbone)
    shutil.rmtree(folder, ignore_errors=True)
    make_directory(folder)
    started = time.monotonic()
    search(recipe, backbone, folder / "fitted")
    seconds = time.monotonic() - started
    record = read_json(folder / "fitted" / "search.json")
    results = {
        _FITTED: (
            [(MergeSettings(**trial["settings"]), outcome_of(trial)) for trial in record["trials"]],
            len(record["estimated"]),
        )
    }
    for number, (way, keys) in enumerate(_DRAWN.items()):
        drawn = changed(recipe, trials=_MANY, random_share=_RANDOM_SHARE, **keys)
        results[way] = by_margins(drawn, backbone, folder / str(number), seconds)
    started = time.monotonic()
    model = TrialModel.load(recipe, backbone)
    tried = by_answers(recipe, model, folder, started + seconds)
    results[_ANSWERS] = (tried, len(tried))
    row: dict[str, Any] = {"seconds": seconds}
    before = outcome_of(record["backbone"])
    for way, (answered, count) in results.items():
        front = pareto_front(answered, before, settings)
        fresh = [asked(recipe, model, merge) for merge, _ in front]
        chosen = asked(recipe, model, choose(before, answered, settings))
        row[way] = {"merges": count, "area": area(fresh), "chosen": chosen}
    return row


def by_margins(
    recipe: Recipe, backbone: Path, folder: Path, seconds: float
) -> tuple[list[Trial], int]:
    """A search by margins that keeps time for the answers of its best merges.

    Returns:
        The merges that were asked for answers, and how many were tried.
    """
    assert recipe.search is not None
    make_directory(folder)
    start = time.monotonic()
    answered = recipe.search.answered

    def walk(model: TrialSource, method: SearchMethod, trials: Trials) -> list[Trial]:
        # Reading the backbone took about what one answer of a merge will take.
        spent = time.monotonic() - start
        end = start + seconds - min(answered * spent / 2, seconds / 2)
        return until(end, model, method, recipe, trials)

    result = search_by_margins(recipe, backbone, folder, walk)
    if isinstance(result, PoorMargins):
        raise SystemExit("the margins do not tell refusals from answers: nothing to compare")
    method = recipe.search.methods[0]
    return result.answered[method], len(result.estimated[method])


def by_answers(recipe: Recipe, model: TrialModel, folder: Path, end: float) -> list[Trial]:
    """As many trials by answers as are done before the clock says ``end``."""
    assert recipe.search is not None
    keys = {"by": "answers", "fit": "none", "trials": _MANY, "random_share": _RANDOM_SHARE}
    asked_for = changed(recipe, **keys)
    assert asked_for.search is not None
    trials = Trials(folder, "answers", asked_for.search, recipe.seed)
    return until(end, model, recipe.search.methods[0], asked_for, trials)


def until(
    end: float, model: TrialSource, method: SearchMethod, recipe: Recipe, trials: Trials
) -> list[Trial]:
    """Trials until the clock says ``end``."""

    def stop(number: int, outcome: Outcome) -> None:
        if time.monotonic() > end:
            raise _TimeIsUpError

    with contextlib.suppress(_TimeIsUpError):
        search_method(model, method, recipe, trials, stop)
    return list(trials.done().values())


def changed(recipe: Recipe, **keys: Any) -> Recipe:
    """The recipe with other keys of its search."""
    assert recipe.search is not None
    return recipe.model_copy(update={"search": recipe.search.model_copy(update=keys)})


def asked(recipe: Recipe, model: TrialModel, merge: MergeSettings) -> Outcome:
    """The rates of a merge on the prompts of the recipe's evaluation."""
    assert recipe.eval is not None
    fresh = load_prompts(load_suite(recipe.eval.suite, recipe.eval.data_dir))
    in_memory = model.model
    assert isinstance(in_memory, InMemoryModel)
    other = InMemoryModel(
        in_memory.model,
        in_memory.tokenizer,
        in_memory.loaded,
        [prompts for prompts in fresh if prompts.row.axis in ("harm", "refusal")],
        in_memory.batch_tokens,
        in_memory.chat,
    )
    rates = {axis: rate.value for axis, rate in other.rates(merge).items()}
    return outcome_of({"utility": 0.0, **rates})


def table(rows: list[dict[str, Any]]) -> Table:
    """A line for every seed and way, then the mean areas."""
    shown = Table(title="dominated area on fresh prompts, and the chosen merge's rates there")
    for head in ("seed", "seconds"):
        shown.add_column(head)
    shown.add_column("way to search")
    for head in ("merges", "area", "harm", "refusals"):
        shown.add_column(head, justify="right")
    for seed, row in enumerate(rows):
        for way in _WAYS:
            outcome: Outcome = row[way]["chosen"]
            rates = (f"{100 * rate:.1f} %" for rate in (outcome.harmful_rate, outcome.refusal_rate))
            area_text = f"{row[way]['area']:.3f}"
            merges = str(row[way]["merges"])
            shown.add_row(str(seed), f"{row['seconds']:.0f}", way, merges, area_text, *rates)
    means = (f"{way}: {np.mean([row[way]['area'] for row in rows]):.3f}" for way in _WAYS)
    shown.caption = "mean areas: " + "; ".join(means)
    return shown


if __name__ == "__main__":
    main()
