"""An ablation as tables: for the terminal, and in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from eval.axes import AXES
from eval.report.table import percent, shown_axes
from launch.ablation.record_types import AblationRecord, CurvePoint, Spread
from launch.ablation.sensitivity import NAMES


def render(record: AblationRecord) -> Table:
    """The variants, for a rich console."""
    axes = _axes(record)
    table = Table(title=_caption(record))
    table.add_column("variant", overflow="fold", min_width=14)
    for axis in axes:
        table.add_column(AXES[axis].title, justify="right")
    for row in record["variants"]:
        table.add_row(row["title"], *(percent(row["axes"].get(axis)) for axis in axes))
    return table


def markdown(record: AblationRecord) -> str:
    """All of the record that people read."""
    axes = _axes(record)
    rows = [
        [row["title"], row["how"], *(percent(row["axes"].get(axis)) for axis in axes)]
        for row in record["variants"]
    ]
    runs = list(zip(record["seeds"], record["chosen"], record["retention_seeds"], strict=True))
    chosen = [f"- seed {seed}: {_settings(settings)}" for seed, settings, _ in runs]
    parts = [
        f"# Ablation of {record['name']}",
        f"{_caption(record)}, on the prompts of `{record['suite']}`, on which nothing is chosen.",
        _table(["variant", "settings", *(AXES[axis].title for axis in axes)], rows),
        "Chosen settings:\n\n" + "\n".join(chosen),
        "## Retention seeds",
        "The chosen settings, with nothing but the seed of the random retention changed: mean, "
        "standard deviation, least and most.",
        _table(
            ["seed of the run", "merges", *(AXES[axis].title for axis in axes)],
            [
                [str(seed), str(len(run["seeds"])), *(_range(run["axes"].get(a)) for a in axes)]
                for seed, _, run in runs
            ],
        ),
        "## Sensitivity",
        "One setting changed, all others held; p by its value, the others by what the chosen "
        "value is multiplied with. A top rate ends at 1.",
        "![rates over each setting](sensitivity.svg)",
        *(_curve(key, points, axes) for key, points in record["curves"].items()),
    ]
    return "\n\n".join(parts) + "\n"


def _axes(record: AblationRecord) -> list[str]:
    return shown_axes({"models": {row["name"]: row["axes"] for row in record["variants"]}})


def _caption(record: AblationRecord) -> str:
    count = len(record["seeds"])
    if count == 1:
        return "Rates with 95 % Wilson intervals"
    return f"Means of {count} seeds with 95 % Student intervals"


def _settings(settings: Mapping[str, Any]) -> str:
    words = f"{settings['method']}, score {settings['score']}, scope {settings['scope']}"
    return words + "".join(f", {name} {settings[key]:.3g}" for key, name in NAMES.items())


def _range(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    mean, deviation = 100 * spread["mean"], 100 * spread["deviation"]
    low, high = 100 * spread["min"], 100 * spread["max"]
    return f"{mean:.1f} % ± {deviation:.1f} ({low:.1f} to {high:.1f})"


def _curve(key: str, points: Sequence[CurvePoint], axes: Sequence[str]) -> str:
    sign = "" if key == "retention" else "x"
    head = [NAMES[key], *(f"{sign}{point['position']:g}" for point in points)]
    rows = [
        [AXES[axis].title, *(percent(point["axes"].get(axis)) for point in points)] for axis in axes
    ]
    return _table(head, rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
