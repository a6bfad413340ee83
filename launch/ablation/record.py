"""ablation.json, of one run and over several seeds: tables, curves and spreads as data."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.axes import AXES
from eval.statistics.rates import mean_and_spread
from launch.ablation.picture import draw
from launch.ablation.sensitivity import Point
from launch.ablation.table import markdown
from launch.ablation.variants import Model, Variant
from launch.recipe import Recipe
from launch.run.folder import ABLATION_RECORD
from merge.common.files import atomic_write_json, atomic_write_text
from merge.settings import MergeSettings

Axes = dict[str, dict[str, Any]]


def run_record(
    recipe: Recipe,
    chosen: MergeSettings,
    rows: Sequence[Variant],
    lines: Mapping[str, Sequence[Point]],
    seeds: Sequence[MergeSettings],
    outcome: Callable[[Model], dict[str, Any]],
) -> dict[str, Any]:
    """The record of one run.

    Args:
        outcome: rates of a model by axis under "axes", and what else is known of it.
    """
    assert recipe.eval is not None
    return {
        "name": recipe.name,
        "suite": str(recipe.eval.suite),
        "seeds": [recipe.seed],
        "chosen": [chosen.model_dump(mode="json")],
        "variants": [
            {"name": row.name, "title": row.title, "how": row.how, **outcome(row.model)}
            for row in rows
        ],
        "curves": {
            key: [
                {
                    "position": point.position,
                    "values": [point.value],
                    "axes": outcome(point.settings)["axes"],
                }
                for point in points
            ]
            for key, points in lines.items()
        },
        "retention_seeds": [
            _spread([seed.seed for seed in seeds], [outcome(seed)["axes"] for seed in seeds])
        ],
    }


def _spread(seeds: Sequence[int], found: Sequence[Axes]) -> dict[str, Any]:
    """Spread over merges that differ in the seed of the retention alone."""
    axes = {}
    for axis in _axes(found):
        values = [rates[axis]["value"] for rates in found]
        axes[axis] = {
            "mean": statistics.fmean(values),
            "deviation": statistics.stdev(values),
            "min": min(values),
            "max": max(values),
            "values": values,
        }
    return {"seeds": list(seeds), "axes": axes}


def summarise(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The record of several runs that differ in their seed: means with Student 95 % intervals.

    Curves are averaged by position. A row that a run does not have is left out; where one is as
    chosen in some runs and not in others, its "how" says in how many.
    """
    first = records[0]
    return {
        **{key: first[key] for key in ("name", "suite")},
        **{
            key: [each for record in records for each in record[key]]
            for key in ("seeds", "chosen", "retention_seeds")
        },
        "variants": [
            _mean_row([row for record in records for row in record["variants"] if row["name"] == n])
            for n in (row["name"] for row in first["variants"])
        ],
        "curves": {
            key: [
                {
                    "position": points[0]["position"],
                    "values": [value for point in points for value in point["values"]],
                    "axes": _means([point["axes"] for point in points]),
                }
                for points in zip(
                    *(record["curves"][key] for record in records if key in record["curves"]),
                    strict=True,
                )
            ]
            for key in first["curves"]
        },
    }


def _mean_row(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    hows = [row["how"] for row in rows]
    same = hows.count("as chosen")
    how = next((how for how in hows if how != "as chosen"), hows[0])
    if 0 < same < len(hows):
        how += f" (as chosen in {same} of {len(hows)})"
    mean = {
        "name": rows[0]["name"],
        "title": rows[0]["title"],
        "how": how,
        "axes": _means([row["axes"] for row in rows]),
    }
    trainings = [row["training"] for row in rows if "training" in row]
    return {**mean, "trainings": trainings} if trainings else mean


def _means(found: Sequence[Axes]) -> Axes:
    means = {}
    for axis in _axes(found):
        spread = mean_and_spread([rates[axis]["value"] for rates in found])
        means[axis] = {"value": spread.pop("mean"), **spread}
    return means


def _axes(found: Sequence[Axes]) -> list[str]:
    return [axis for axis in AXES if all(axis in rates for rates in found)]


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write picture, table and, last of all, numbers."""
    atomic_write_text(folder / "sensitivity.svg", draw(record))
    atomic_write_text(folder / "ablation.md", markdown(record))
    atomic_write_json(folder / ABLATION_RECORD, record)
