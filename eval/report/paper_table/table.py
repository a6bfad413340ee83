"""A report's numbers in the layout of the paper's table, published numbers in columns beside them.

Rows are methods. Columns are the suite's harmful, over-refusal and utility sets, the plain mean of
the utility sets, MT-Bench, time per token (ATGR), and attack success by kind.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, cast

from eval.report.headline import PATCHED
from eval.report.paper_table.published import Published
from eval.report.table import percent, rating
from eval.statistics.rates import GroupedMean, Interval
from eval.suites.suite import AskedAxis

AVERAGE, RATED, TIME = "utility average", "MT-Bench", "ATGR"
REFERENCE = "paper"
"""Heading of the columns with published numbers."""
_GROUPS: dict[AskedAxis, str] = {
    "harm": "harmful answers, %",
    "refusal": "refused harmless requests, %",
    "utility": "utility, %",
}
"""Titles of the axes of the suites that the paper's table has, in its order."""
_ATTACKS = "attack success, %"


def paper_table(report: Mapping[str, Any], published: Published | None) -> dict[str, Any]:
    """What report.json holds as ``paper_table``.

    Args:
        report: what ``eval.report.compare.compare`` returns.

    Returns:
        "columns": "name", "group" (None of the last ones), and whether any row has a "published"
        number; "rows" by method: "cells" by column with "value", "low", "high" (fractions of 1,
        ratings, multiples) and "published" by column as printed; "reference": "title" and "source".
        A method or set that only the paper has is a row or column without cells.
    """
    rows = published.rows if published else {}
    printed = {column for cells in rows.values() for column in cells}
    columns = list(_columns(report, published.sets if published else {}, printed))
    known = {column["name"] for column in columns}
    columns += [{"name": name, "group": None} for name in sorted(printed - known)]
    measured = [name for name in report["models"] if name != PATCHED]
    last = [PATCHED] * (PATCHED in report["models"])
    methods = dict.fromkeys([*measured, *(name for name in rows if name not in last), *last])
    return {
        "reference": published and {"title": published.title, "source": published.source},
        "columns": [{**column, "published": column["name"] in printed} for column in columns],
        "rows": {
            name: {"cells": dict(_cells(report, name)), "published": rows.get(name, {})}
            for name in methods
        },
    }


def _columns(
    report: Mapping[str, Any], sets: Mapping[AskedAxis, Sequence[str]], printed: Collection[str]
) -> Iterator[dict[str, Any]]:
    plain = {
        name: row["axis"]
        for name, row in report["suites"][report["backbone"]].items()
        if row.get("attack") is None
    }
    for axis, group in _GROUPS.items():
        asked = [name for name, its in plain.items() if its == axis]
        asked += [name for name in sets.get(axis, ()) if name in printed and name not in plain]
        yield from ({"name": name, "group": group} for name in asked)
        if axis == "utility" and any(report["utility_average"].values()):
            yield {"name": AVERAGE, "group": group}
    yield {"name": RATED, "group": None}
    yield {"name": TIME, "group": None}
    for kind in report.get("attacks", {}):
        yield {"name": kind, "group": _ATTACKS}


def _cells(report: Mapping[str, Any], model: str) -> Iterator[tuple[str, Any]]:
    for name, row in report["suites"].get(model, {}).items():
        yield name, {key: row[key] for key in ("value", "low", "high", "n")}
    others = {
        AVERAGE: report["utility_average"].get(model),
        RATED: report.get("mt_bench", {}).get(model),
        TIME: report["time_per_token"].get(model),
        **{kind: by_model.get(model) for kind, by_model in report.get("attacks", {}).items()},
    }
    for name, measured in others.items():
        if measured is not None:
            yield name, {key: measured[key] for key in ("value", "low", "high")}


def shown_cell(column: str, measured: Mapping[str, Any] | None) -> str:
    """A measured number with its interval, in the unit of its column; else a dash."""
    if measured is None:
        return "-"
    if column == RATED:
        return rating(cast(GroupedMean, measured))
    if column == TIME:
        return f"{measured['value']:.2f}x [{measured['low']:.2f}, {measured['high']:.2f}]"
    return percent(cast(Interval, measured))


def shown_published(column: str, value: float | None) -> str:
    """A published number as it is printed, with its unit."""
    if value is None:
        return "-"
    unit = {RATED: "", TIME: "x"}.get(column, " %")
    return f"{value:.2f}{unit}"


def markdown_lines(report: Mapping[str, Any]) -> list[str]:
    """The table in Markdown, a column with published numbers after each that has any."""
    table = report.get("paper_table")
    if table is None:
        return []
    head = ["method"]
    for column in table["columns"]:
        head += [column["name"], *([f"{column['name']}, {REFERENCE}"] * column["published"])]
    lines = [head, ["---"] * len(head)]
    for name, row in table["rows"].items():
        cells = [name]
        for column in table["columns"]:
            key = column["name"]
            cells.append(shown_cell(key, row["cells"].get(key)))
            if column["published"]:
                cells.append(shown_published(key, row["published"].get(key)))
        lines.append(cells)
    texts = [" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines]
    return ["", *(f"| {text} |" for text in texts), "", reference_line(table)]


def reference_line(table: Mapping[str, Any]) -> str:
    """Where the published numbers come from, in a sentence."""
    reference = table["reference"]
    if reference is None:
        return "The recipe names no published numbers (eval.paper_table.backbone)."
    if not any(column["published"] for column in table["columns"]):
        return f"No published numbers of {reference['title']} are here ({reference['source']})."
    return (
        f"Columns headed '{REFERENCE}' are published numbers of {reference['title']}, a reference "
        f"and no result of this run: {reference['source']}."
    )
