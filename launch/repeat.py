"""The same recipe with several seeds: what is chance in one run's table."""

from pathlib import Path
from typing import Any

from rich.table import Table

from eval.harness import AXES
from eval.statistics import mean_and_spread
from eval.table import TITLES
from launch.pipeline import Pipeline, read_report
from launch.recipe import Recipe
from merge.errors import UserError
from merge.files import atomic_write_json
from train.recipe import load_recipe

CONFIDENCE = 0.95


def repeat(recipe: Path, overrides: list[str], seeds: int) -> tuple[Path, dict[str, Any]]:
    """Run the recipe with the seeds 0, 1, ... in folders of their own, and summarise.

    Returns:
        The folder of all runs, and what its seeds.json holds: per model and axis the values, their
        mean, and the ends of its 95 % Student interval.
    """
    folder = load_recipe(recipe, overrides, Recipe).output
    reports = []
    for seed in range(seeds):
        own = [*overrides, f"seed={seed}", f"output={folder / f'seed-{seed}'}"]
        report = Pipeline(load_recipe(recipe, own, Recipe)).run()
        if report is None:
            raise UserError(f"recipe {recipe}: has no eval section, so seeds cannot be compared")
        reports.append(read_report(report))
    models = {
        name: {
            axis: mean_and_spread([report["models"][name][axis]["value"] for report in reports])
            for axis in AXES
            if all(axis in report["models"][name] for report in reports)
        }
        for name in reports[0]["models"]
    }
    record = {"seeds": seeds, "confidence": CONFIDENCE, "models": models}
    atomic_write_json(folder / "seeds.json", record)
    return folder, record


def render(record: dict[str, Any]) -> Table:
    """Means with intervals, as a table for the terminal."""
    table = Table(title=f"Means of {record['seeds']} seeds with 95 % Student intervals")
    table.add_column("model", overflow="fold", min_width=14)
    axes_shown = [axis for axis in AXES if any(axis in axes for axes in record["models"].values())]
    for axis in axes_shown:
        table.add_column(TITLES[axis], justify="right")
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
