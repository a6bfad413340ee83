"""A report as a table: for the terminal, and in Markdown for a model card."""

from typing import Any

from rich.table import Table

from eval.harness import AXES
from eval.verdict import LOWER_IS_BETTER

TITLES = {
    "harmful_rate": "Harmful answers",
    "refusal_rate": "Refused harmless",
    "utility": "Utility",
    "degenerate_rate": "Degenerate",
}
"""How an axis is called for people."""


def shown_axes(report: dict[str, Any]) -> list[str]:
    """The axes that any model has, in fixed order."""
    return [axis for axis in AXES if any(axis in rates for rates in report["models"].values())]


def percent(found: dict[str, Any] | None) -> str:
    """A rate as "12.3 % [10.1, 14.9]"; a dash where there is none."""
    if found is None:
        return "-"
    low, high = (f"{100 * found[end]:.1f}" for end in ("low", "high"))
    return f"{100 * found['value']:.1f} % [{low}, {high}]"


def axis_title(report: dict[str, Any], axis: str) -> str:
    """Title with direction and number of cases, for example "Utility (higher is better, n=50)"."""
    cases = sorted({rates[axis]["n"] for rates in report["models"].values() if axis in rates})
    better = "lower" if LOWER_IS_BETTER[axis] else "higher"
    return f"{TITLES[axis]} ({better} is better, n={'/'.join(map(str, cases))})"


def render_table(report: dict[str, Any]) -> Table:
    """The three axes and degenerate answers of each model, for a rich console."""
    axes = shown_axes(report)
    table = Table(
        title="Rates with 95 % Wilson intervals", caption=f"harmful: {report['harm_rule']}"
    )
    table.add_column("model")
    for axis in axes:
        table.add_column(axis_title(report, axis), justify="right")
    verdicts = report.get("verdicts", {})
    if verdicts:
        table.add_column(f"against {report['backbone']}")
    for name, rates in report["models"].items():
        verdict = [verdicts[name]["overall"]] if name in verdicts else []
        table.add_row(name, *(percent(rates.get(axis)) for axis in axes), *verdict)
    return table


def markdown_table(report: dict[str, Any]) -> str:
    """The same as ``render_table``, for a model card."""
    axes = shown_axes(report)
    rows = [["model", *(axis_title(report, axis) for axis in axes)], ["---"] * (len(axes) + 1)]
    for name, rates in report["models"].items():
        rows.append([name.replace("|", "\\|"), *(percent(rates.get(axis)) for axis in axes)])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", f"95 % Wilson intervals; harmful: {report['harm_rule']}.", ""])
