"""What a search has come to, for people: the front, a picture of it, and lines for the recipe."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from eval.axes import AXES, SEARCHED
from eval.report.pictures.fronts import fronts_of
from eval.report.pictures.trade_off import standalone, trade_off_svg
from eval.report.record import Report
from eval.report.table import settings_line
from eval.statistics.rates import RateRecord
from launch.search.record import SearchRecord
from merge.common.files import atomic_write_text
from merge.settings import MergeSettings

CHOSEN, PICTURE = "chosen.yaml", "front.svg"


def write_result(record: SearchRecord, folder: Path) -> None:
    """Write the recipe lines and the picture beside search.json."""
    atomic_write_text(folder / CHOSEN, recipe_lines(record))
    backbone = {axis: _exact(record["backbone"][axis]) for axis in SEARCHED}
    report: Report = {"models": {"backbone": backbone}, "backbone": "backbone", "search": record}
    atomic_write_text(folder / PICTURE, standalone(trade_off_svg(report)))


def recipe_lines(record: SearchRecord) -> str:
    """The chosen settings as a recipe's section, all that differs from the defaults."""
    chosen = MergeSettings(**next(iter(record["chosen"].values())))
    values = {"method": chosen.method, **chosen.model_dump(mode="json", exclude_defaults=True)}
    rule = f"# On the validation part: {record['rule']}.\n"
    return rule + yaml.safe_dump({"merge": values}, sort_keys=False)


def render_front(record: SearchRecord) -> Table:
    """The backbone and the Pareto front of each method, least harm first."""
    screened = sum(trial.get("screened", False) for trial in record["trials"])
    stopped = f"; {screened} of {len(record['trials'])} trials were stopped early"
    table = Table(
        title="Pareto fronts on the validation part, in %",
        caption="* chosen" + (stopped if screened else ""),
    )
    table.add_column("method")
    for axis in SEARCHED:
        table.add_column(AXES[axis].title, justify="right")
    table.add_column("settings", overflow="fold")
    table.add_row("backbone", *_rates(record["backbone"]), "")
    for method, trials in fronts_of(record["trials"]).items():
        for trial in trials:
            mark = "* " if trial["chosen"] else ""
            table.add_row(method, *_rates(trial), mark + settings_line(trial["settings"]))
        table.add_section()
    return table


def _exact(value: float) -> RateRecord:
    return {"value": value, "low": value, "high": value, "n": 0}


def _rates(outcome: Mapping[str, Any]) -> list[str]:
    return [f"{100 * outcome[axis]:.1f}" for axis in SEARCHED]
