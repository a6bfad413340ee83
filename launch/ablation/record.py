"""ablation.json, of one run and over several seeds: tables, curves and spreads as data."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from eval.axes import AXES
from eval.statistics.rates import mean_and_spread
from launch.ablation.picture import draw
from launch.ablation.record_types import (
    AblationRecord,
    AxisRates,
    SeedSpread,
    Spread,
    VariantOutcome,
    VariantRate,
    VariantRow,
)
from launch.ablation.sensitivity import Point
from launch.ablation.table import markdown
from launch.recipe import Recipe
from launch.run.folder import ABLATION_RECORD
from launch.run.variant import Model, Variant
from merge.common.files import atomic_write_json, atomic_write_text, read_json
from merge.settings import MergeSettings


def run_record(
    recipe: Recipe,
    chosen: MergeSettings,
    rows: Sequence[Variant],
    lines: Mapping[str, Sequence[Point]],
    seeds: Sequence[MergeSettings],
    outcome: Callable[[Model], VariantOutcome],
) -> AblationRecord:
    """The record of one run.

    Args:
        rows: of the table.
        lines: the curves, by the setting that changes.
        seeds: the merges that differ in the seed of the retention alone.
        outcome: what the evaluation of a variant has given.
    """
    assert recipe.eval is not None
    return {
        "name": recipe.name,
        "suite": str(recipe.eval.suite),
        "seeds": [recipe.seed],
        "chosen": [chosen.model_dump(mode="json")],
        "variants": [
            VariantRow(name=row.name, title=row.title, how=row.how, **outcome(row.model))
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


def _spread(seeds: Sequence[int], merges: Sequence[AxisRates]) -> SeedSpread:
    """Spread over merges that differ in the seed of the retention alone."""
    axes: dict[str, Spread] = {}
    for axis in _axes(merges):
        values = [rates[axis]["value"] for rates in merges]
        axes[axis] = {
            "mean": statistics.fmean(values),
            "deviation": statistics.stdev(values),
            "min": min(values),
            "max": max(values),
            "values": values,
        }
    return {"seeds": list(seeds), "axes": axes}


def summarise(records: Sequence[AblationRecord]) -> AblationRecord:
    """The record of several runs that differ in their seed: means with Student 95 % intervals.

    Curves are averaged by position. A row that a run does not have is left out; where one is as
    chosen in some runs and not in others, its "how" says in how many. One run keeps its own record,
    with Wilson intervals.
    """
    first = records[0]
    if len(records) == 1:
        return first
    return {
        "name": first["name"],
        "suite": first["suite"],
        "seeds": [seed for record in records for seed in record["seeds"]],
        "chosen": [settings for record in records for settings in record["chosen"]],
        "retention_seeds": [spread for record in records for spread in record["retention_seeds"]],
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


def _mean_row(rows: Sequence[VariantRow]) -> VariantRow:
    hows = [row["how"] for row in rows]
    same = hows.count("as chosen")
    how = next((how for how in hows if how != "as chosen"), hows[0])
    if 0 < same < len(hows):
        how += f" (as chosen in {same} of {len(hows)})"
    name, title, axes = rows[0]["name"], rows[0]["title"], _means([row["axes"] for row in rows])
    mean = VariantRow(name=name, title=title, how=how, axes=axes)
    trainings = [row["training"] for row in rows if "training" in row]
    if trainings:
        mean["trainings"] = trainings
    return mean


def _means(runs: Sequence[AxisRates]) -> AxisRates:
    means: AxisRates = {}
    for axis in _axes(runs):
        spread = mean_and_spread([rates[axis]["value"] for rates in runs])
        means[axis] = VariantRate(
            value=spread["mean"],
            deviation=spread["deviation"],
            low=spread["low"],
            high=spread["high"],
            values=spread["values"],
        )
    return means


def _axes(models: Sequence[AxisRates]) -> list[str]:
    """The axes on which all of some models were measured."""
    return [axis for axis in AXES if all(axis in rates for rates in models)]


def write_record(folder: Path, record: AblationRecord) -> None:
    """Write picture, table and, last of all, numbers."""
    atomic_write_text(folder / "sensitivity.svg", draw(record))
    atomic_write_text(folder / "ablation.md", markdown(record))
    atomic_write_json(folder / ABLATION_RECORD, record)


def read_record(folder: Path) -> AblationRecord:
    """The record that an ablation left in its folder.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    return cast(AblationRecord, read_json(folder / ABLATION_RECORD))
