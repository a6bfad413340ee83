"""What a search by margins is worth against one by answers in equal time: ``make measure-margins``.

    python -m tests.measure_margins RUN [--seeds 3] [key=value ...]

RUN is a run folder whose patches are still there, with a recipe that searches by margins, as
``launch search launch/recipes/demo.yaml keep_intermediates=true`` leaves it. For every seed of the
sampler the search by margins runs to its end; then one by answers tries as many merges of the first
method as fit into the same seconds, after the backbone's answers. Every merge of both fronts is
asked the prompts of the recipe's evaluation, on which nothing was chosen; what counts is the area
that a front dominates there in (harm, refusals), of 1.
"""

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from eval.prompts import load_prompts
from eval.suite import load_suite
from launch.borrowed_model import BorrowedModel
from launch.choice import Outcome, Tried, choose, pareto_front
from launch.recipe import Recipe
from launch.search import search, search_method
from launch.trial_model import TrialModel, outcome_of
from launch.trials import TrialJournal
from merge.files import make_directory, read_json
from merge.recipe import MergeSettings
from tests.measure_search import area
from train.backbone import backbone_directory
from train.recipe import load_recipe


class _TimeIsUpError(Exception):
    pass


def main() -> None:
    """Parse the command line, search, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.measure_margins", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args()
    recipe = load_recipe(options.run / "recipe.yaml", options.overrides, Recipe)
    folder = options.run / "measure-margins"
    rows = [measure(recipe, folder / str(seed), seed) for seed in range(options.seeds)]
    Console().print(table(rows))


def measure(recipe: Recipe, folder: Path, seed: int) -> dict[str, Any]:
    """Both searches of one seed, and what their fronts do on fresh prompts."""
    assert recipe.search is not None
    method = recipe.search.methods[0]
    settings = recipe.search.model_copy(update={"methods": (method,)})
    recipe = recipe.model_copy(update={"seed": seed, "search": settings})
    shutil.rmtree(folder, ignore_errors=True)
    make_directory(folder)
    started = time.monotonic()
    search(recipe, backbone_directory(recipe.backbone), folder / "margins")
    seconds = time.monotonic() - started
    record = read_json(folder / "margins" / "search.json")
    answered = [
        (MergeSettings(**trial["settings"]), outcome_of(trial)) for trial in record["trials"]
    ]
    before = outcome_of(record["backbone"])
    started = time.monotonic()
    model = TrialModel.load(recipe, backbone_directory(recipe.backbone))
    tried = within(recipe, model, folder, started + seconds)
    row: dict[str, Any] = {"seconds": seconds}
    for name, found, count in (
        ("margins", answered, len(record["estimated"])),
        ("answers", tried, len(tried)),
    ):
        front = pareto_front(found, before, settings)
        fresh = [asked(recipe, model, merge) for merge, _ in front]
        chosen = asked(recipe, model, choose(before, found, settings))
        row[name] = {"merges": count, "area": area(fresh), "chosen": chosen}
    return row


def within(recipe: Recipe, model: TrialModel, folder: Path, end: float) -> list[Tried]:
    """As many trials by answers as are done before the clock says ``end``."""
    assert recipe.search is not None
    by_answers = recipe.search.model_copy(
        update={"by": "answers", "fit": "none", "trials": 10_000, "random_share": 0.001}
    )

    def stop(number: int, outcome: Outcome) -> None:
        if time.monotonic() > end:
            raise _TimeIsUpError

    journal = TrialJournal(folder / "answers.jsonl")
    try:
        changed = recipe.model_copy(update={"search": by_answers})
        search_method(model, recipe.search.methods[0], changed, journal, stop)
    except _TimeIsUpError:
        pass
    return journal.tried


def asked(recipe: Recipe, model: TrialModel, merge: MergeSettings) -> Outcome:
    """The rates of a merge on the prompts of the recipe's evaluation."""
    assert recipe.eval is not None
    fresh = load_prompts(load_suite(recipe.eval.suite, recipe.eval.data_dir))
    borrowed = model.model
    other = BorrowedModel(
        borrowed.model,
        borrowed.tokenizer,
        borrowed.loaded,
        [prompts for prompts in fresh if prompts.row.axis in ("harm", "refusal")],
        borrowed.batch_tokens,
        borrowed.chat,
    )
    rates = {axis: rate.value for axis, rate in other.rates(merge).items()}
    return outcome_of({"utility": 0.0, **rates})


def table(rows: list[dict[str, Any]]) -> Table:
    """A line for each seed, then the means."""
    shown = Table(title="dominated area on fresh prompts, and the chosen merge's rates there")
    shown.add_column("seed")
    shown.add_column("seconds", justify="right")
    for name in ("margins", "answers"):
        for head in ("merges", "area", "harm", "refusals"):
            shown.add_column(f"{name}\n{head}", justify="right")
    for seed, row in enumerate(rows):
        cells = [cell for name in ("margins", "answers") for cell in _cells(row[name])]
        shown.add_row(str(seed), f"{row['seconds']:.0f}", *cells)
    areas = [[row[name]["area"] for row in rows] for name in ("margins", "answers")]
    shown.caption = "mean areas: " + ", ".join(f"{np.mean(each):.3f}" for each in areas)
    return shown


def _cells(found: dict[str, Any]) -> list[str]:
    outcome: Outcome = found["chosen"]
    rates = (outcome.harmful_rate, outcome.refusal_rate)
    return [str(found["merges"]), f"{found['area']:.3f}", *(f"{100 * r:.1f} %" for r in rates)]


if __name__ == "__main__":
    main()
