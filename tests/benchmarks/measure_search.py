"""What the search's sampler is worth against drawing at random: ``make measure-search``.

    python -m tests.benchmarks.measure_search RUN [--seeds 5] [key=value ...]

RUN is a run folder whose patches are still there, as ``launch search`` leaves it. Every seed makes
two searches of the first method with the same number of trials, of which the second draws every
trial at random; the recipe's section `merge` is asked once. What counts of each is its front within
the margins: the area that it dominates in (harm, refusals), of 1, and how much of it the first
search's front beats, that is, where it is nowhere worse and somewhere better. Trials are kept in
RUN/measure-search: an interrupted measurement goes on there, and more seeds add to it.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from launch.recipe import Recipe
from launch.search.choice import Outcome, Trial, beats, pareto_front
from launch.search.storage import Trials
from launch.search.trial_loop import search_method
from launch.search.trial_model import TrialModel
from merge.common.files import make_directory
from train.backbone.folder import backbone_directory
from train.recipe import load_recipe


@dataclass(frozen=True)
class Found:
    """The fronts of one seed: of the search, of the random one, and of the default settings."""

    search: list[Outcome]
    random: list[Outcome]
    default: list[Outcome]

    def row(self) -> list[float]:
        """Areas of the three, then the shares of the last two that the first beats."""
        fronts = (self.search, self.random, self.default)
        return [
            *map(area, fronts),
            beaten(self.search, self.random),
            beaten(self.search, fronts[2]),
        ]


def area(front: Sequence[Outcome]) -> float:
    """The share of the unit square of harm and refusals that is worse than some point."""
    covered, least = 0.0, 1.0
    for outcome in sorted(front, key=lambda each: (each.harmful_rate, each.refusal_rate)):
        covered += (1 - outcome.harmful_rate) * max(0.0, least - outcome.refusal_rate)
        least = min(least, outcome.refusal_rate)
    return covered


def beaten(front: Sequence[Outcome], others: Sequence[Outcome]) -> float:
    """The share of ``others`` that some point of ``front`` beats; of none it is NaN."""
    if not others:
        return float("nan")
    return sum(any(beats(one, other) for one in front) for other in others) / len(others)


def main() -> None:
    """Parse the command line, search, and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.measure_search", description=__doc__
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args()
    recipe = load_recipe(options.run / "recipe.yaml", options.overrides, Recipe)
    model = TrialModel.load(recipe, backbone_directory(recipe.backbone))
    folder = options.run / "measure-search"
    make_directory(folder)
    rows = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for seed in progress.track(range(options.seeds), description="seeds"):
            rows.append(measure(recipe, model, folder, seed).row())
    Console().print(table(recipe, rows))


def measure(recipe: Recipe, model: TrialModel, folder: Path, seed: int) -> Found:
    """Both searches of one seed, and the default."""
    assert recipe.search is not None
    settings = recipe.search

    def front(tried: Sequence[Trial]) -> list[Outcome]:
        return [outcome for _, outcome in pareto_front(tried, model.before, settings)]

    fronts = []
    for name, share in (("search", settings.random_share), ("random", 1.0)):
        changed = settings.model_copy(update={"random_share": share})
        seeded = recipe.model_copy(update={"seed": seed, "search": changed})
        kind = f"{name}-{settings.trials}-{settings.screen:g}-{seed}"
        trials = Trials(folder, kind, changed, seed)
        started = time.monotonic()
        fronts.append(front(search_method(model, settings.methods[0], seeded, trials)))
        taken = time.monotonic() - started
        Console(stderr=True).print(f"seed {seed}, {name}: {taken:.0f} s")
    return Found(fronts[0], fronts[1], front([(recipe.merge, model.outcome(recipe.merge, []))]))


def table(recipe: Recipe, rows: Sequence[Sequence[float]]) -> Table:
    """A line for each seed, then mean and standard deviation."""
    assert recipe.search is not None
    shown = Table(title=f"{recipe.search.methods[0]}, {recipe.search.trials} trials a search")
    shown.add_column("seed")
    for head in ("search", "random", "default", "random beaten", "default beaten"):
        shown.add_column(head, justify="right")
    for seed, row in enumerate(rows):
        shown.add_row(str(seed), *_cells(row))
    shown.add_section()
    shown.add_row("mean", *_cells(np.nanmean(rows, axis=0)))
    if len(rows) > 1:
        shown.add_row("deviation", *_cells(np.nanstd(rows, axis=0, ddof=1)))
    return shown


def _cells(row: Sequence[float] | np.ndarray) -> list[str]:
    return [f"{value:.3f}" for value in row[:3]] + [f"{100 * value:.0f} %" for value in row[3:]]


if __name__ == "__main__":
    main()
