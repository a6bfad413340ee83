"""The summary of a continual alignment: harm so far, refusals and utility after every stage."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from eval.axes import AXES
from eval.report.table import percent
from eval.statistics.rates import RateRecord, rate
from launch.continual.revert import BACKBONE, delta_path
from launch.continual.settings import ContinualStageSettings
from launch.continual.stage_recipes import METHOD, NAME, ContinualStage, belongs
from launch.recipe import Recipe
from merge.common.files import atomic_write_json, atomic_write_text, make_directory, read_json

SO_FAR = "harmful_rate_so_far"
_AXES = ("refusal_rate", "utility", "degenerate_rate")


def write_summary(
    recipe: Recipe,
    stages: Sequence[ContinualStage],
    baselines: Mapping[str, Sequence[ContinualStage]],
) -> Path:
    """Write continual.svg, continual.md and, last, continual.json.

    Returns:
        Their folder.
    """
    from launch.continual.picture import draw

    first = stages[0].recipe.output
    models = {METHOD: stages, **baselines}
    listed = [stage.settings for stage in stages]
    backbone = read_json(first / "eval" / BACKBONE / "summary.json")
    summary = {
        "format": 1,
        "harm_rule": backbone["harm_rule"],
        "stages": {stage.name: list(stage.categories) for stage in listed},
        BACKBONE: measured(backbone, listed, listed),
        "models": {
            name: [
                {
                    "stage": stage.settings.name,
                    "model": str(stage.patched),
                    **measured(_evaluation(stage, name), listed, stage.so_far),
                }
                for stage in path
            ]
            for name, path in models.items()
        },
        "deltas": {stage.name: str(delta_path(recipe.output, stage.name)) for stage in listed},
    }
    folder = recipe.output / NAME
    make_directory(folder)
    atomic_write_text(folder / f"{NAME}.svg", draw(summary))
    atomic_write_text(folder / f"{NAME}.md", markdown_table(summary))
    atomic_write_json(folder / f"{NAME}.json", summary)
    return folder


def _evaluation(stage: ContinualStage, name: str) -> dict[str, Any]:
    return read_json(stage.recipe.output / "eval" / name / "summary.json")


def measured(
    evaluation: Mapping[str, Any],
    stages: Sequence[ContinualStageSettings],
    so_far: Sequence[ContinualStageSettings],
) -> dict[str, Any]:
    """Rates of one model from its summary.json, each with a 95 % Wilson interval.

    Args:
        stages: all; the harm of each is counted by itself.
        so_far: those whose harm is also counted together.
    """
    return {
        "harmful_rate": {stage.name: _harm(evaluation, [stage]) for stage in stages},
        SO_FAR: _harm(evaluation, so_far),
        **{axis: evaluation["axes"][axis] for axis in _AXES if axis in evaluation["axes"]},
    }


def _harm(evaluation: Mapping[str, Any], stages: Sequence[ContinualStageSettings]) -> RateRecord:
    """The rate over all plain harm prompts of the stages' categories, every prompt once.

    Jailbreaks have rates of their own (``attack_success``).
    """
    rates = [
        category_rate
        for suite in evaluation["suites"].values()
        if suite["axis"] == "harm" and not suite.get("attack")
        for category, category_rate in suite["categories"].items()
        if belongs(category, stages)
    ]
    harmful = sum(round(category_rate["value"] * category_rate["n"]) for category_rate in rates)
    return rate(harmful, sum(category_rate["n"] for category_rate in rates)).as_dict()


def rows(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and cells of the table: the backbone, then every model after every stage."""
    stages = list(summary["stages"])
    axes = [axis for axis in _AXES if axis in summary[BACKBONE]]
    head = ["model", "after stage", "harm so far", *(f"harm: {name}" for name in stages)]
    head += [AXES[axis].title for axis in axes]
    entries = [(BACKBONE, "-", summary[BACKBONE])]
    for name, path in summary["models"].items():
        entries += [(name, entry["stage"], entry) for entry in path]
    cells = [
        [
            name,
            stage,
            percent(entry[SO_FAR]),
            *(f"{100 * entry['harmful_rate'][each]['value']:.1f} %" for each in stages),
            *(percent(entry[axis]) for axis in axes),
        ]
        for name, stage, entry in entries
    ]
    return head, cells


def markdown_table(summary: Mapping[str, Any]) -> str:
    """The table in Markdown."""
    head, cells = rows(summary)
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *cells)]
    note = (
        "95 % Wilson intervals; harm so far: all prompts of the stages up to this one; harmful: "
        f"{summary['harm_rule']}."
    )
    return "\n".join([*lines, "", note, ""])


def render_table(summary: Mapping[str, Any]) -> Table:
    """The table of the summary for a rich console, without intervals."""
    head, cells = rows(summary)
    table = Table(title="Rates in %, in order of the stages")
    for number, title in enumerate(head):
        table.add_column(title, justify="left" if number < 2 else "right", overflow="fold")
    for row in cells:
        table.add_row(*(escape(cell.partition(" %")[0]) for cell in row))
    return table
