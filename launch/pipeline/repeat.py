"""A run with its ablation, and the same recipe with several seeds: what is chance in its table."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from rich.table import Table

from eval.axes import AXES
from eval.statistics.rates import MeanRecord, mean_and_spread
from launch.ablation.ablate import average
from launch.pipeline.pipeline import Pipeline, read_report
from launch.pipeline.stages import STAGES
from launch.recipe import Recipe
from launch.run.folder import ABLATION, report_file
from launch.run.seeds import seed_recipes
from launch.run.variant_list import check_ablation
from merge.common.errors import UserError
from merge.common.files import atomic_write_json

CONFIDENCE = 0.95


class SeedsRecord(TypedDict):
    """The content of seeds.json."""

    seeds: int
    """How many runs there are."""
    confidence: float
    models: dict[str, dict[str, MeanRecord]]
    """By model and axis."""


def repeat(recipe: Path, overrides: Sequence[str], seeds: int) -> tuple[Path, SeedsRecord]:
    """Run the recipe with the seeds 0, 1, ... in folders of their own, and summarise.

    Returns:
        The folder of all runs, and what ``summarise`` says of them.
    """
    folder, recipes = seed_recipes(recipe, overrides, seeds)
    for each in recipes:
        Pipeline(each).run()
    return folder, summarise(folder, [each.output for each in recipes])


def ablate(recipe: Recipe) -> Path:
    """Run the recipe, and write RUN/ablation; what is done already is not done again.

    Returns:
        The folder with ablation.json, ablation.md and sensitivity.svg.

    Raises:
        UserError: the recipe evaluates nothing, or a stage cannot be done.
        StoppedOnRequestError: a signal asked for it; what was finished before stays.
    """
    check_ablation(recipe)
    Pipeline(recipe, STAGES).run()
    return recipe.output / ABLATION


def ablate_seeds(recipe: Path, overrides: Sequence[str], seeds: int) -> Path:
    """Do it with the seeds 0, 1, ... in folders of their own, and summarise beside them."""
    folder, recipes = seed_recipes(recipe, overrides, seeds)
    for each in recipes:
        ablate(each)
    return average(folder, [each.output for each in recipes])


def summarise(folder: Path, runs: Sequence[Path]) -> SeedsRecord:
    """Write seeds.json into ``folder`` from the reports of the runs of all seeds.

    Returns:
        Its content.

    Raises:
        UserError: a report is not there, or says nothing of a model of the others.
    """
    reports = [read_report(report_file(run).parent) for run in runs]
    for run, report in zip(runs, reports, strict=True):
        missing = sorted(reports[0]["models"].keys() - report["models"].keys())
        if missing:
            raise UserError(
                f"{report_file(run)}: has no model '{missing[0]}', unlike that of {runs[0].name}; "
                "run all seeds with the same recipe"
            )
    models = {
        name: {
            axis: mean_and_spread([report["models"][name][axis]["value"] for report in reports])
            for axis in AXES
            if all(axis in report["models"][name] for report in reports)
        }
        for name in reports[0]["models"]
    }
    record = SeedsRecord(seeds=len(runs), confidence=CONFIDENCE, models=models)
    atomic_write_json(folder / "seeds.json", record)
    return record


def render(record: SeedsRecord) -> Table:
    """Means with intervals, as a table for the terminal."""
    table = Table(title=f"Means of {record['seeds']} seeds with 95 % Student intervals")
    table.add_column("model", overflow="fold", min_width=14)
    axes_shown = [axis for axis in AXES if any(axis in axes for axes in record["models"].values())]
    for axis in axes_shown:
        table.add_column(AXES[axis].title, justify="right")
    for name, axes in record["models"].items():
        cells = [
            f"{100 * axes[axis]['mean']:.1f} % [{100 * axes[axis]['low']:.1f}, "
            f"{100 * axes[axis]['high']:.1f}]"
            if axis in axes
            else "-"
            for axis in axes_shown
        ]
        table.add_row(name, *cells)
    return table
