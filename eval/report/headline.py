"""What happened to a patched model, in one line: both faults, the price, and what is still open.

For example: "harm -31.0, refusals -33.0, utility -0.8 [-2.3, 0.6]: both faults repaired; a utility
loss of 2 points is not excluded with 360 questions; about 1,100 would tell" (issue 14).
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from eval.axes import AXES, FAULTS
from eval.report.verdict import LEVEL, AxisChange, Verdict
from eval.statistics.paired import PairCounts, cases_to_exclude, cases_to_show

if TYPE_CHECKING:
    from eval.report.record import Report

PATCHED = "safepatching"
"""How a run calls the model that it is about."""

_MOST_CASES = 100_000
"""More than so many are no advice."""
_SILENT_WHERE_KEPT = ("degenerate_rate", "unfinished_rate")
"""Axes that are near 0 in any sound model, and named only where something happened."""
_KEPT = ("no change", "not worse")


def main_model(report: "Report") -> str | None:
    """The model that a report is about: the patched one, else the first beside the backbone."""
    verdicts = report.get("verdicts", {})
    return PATCHED if PATCHED in verdicts else next(iter(verdicts), None)


def headline(verdict: Verdict) -> str:
    """One line on a model against the backbone; differences in percentage points.

    A fault is repaired where it is significantly lower (McNemar, Holm over the axes). Where too
    few cases were asked, the line says how many would decide with probability 0.8, if the shares
    of answers that changed are as seen.

    Args:
        verdict: what ``eval.report.verdict.judge_change`` returns.
    """
    axes = {axis: verdict["axes"][axis] for axis in AXES if axis in verdict["axes"]}
    if all(map(_is_unchanged, axes.values())):
        return _nothing_changed(axes)
    changes = [
        _change(axis, entry)
        for axis, entry in axes.items()
        if not (axis in _SILENT_WHERE_KEPT and (entry["verdict"] in _KEPT or _is_unchanged(entry)))
    ]
    outcome = _outcome(axes)
    parts = [outcome] if outcome else []  # neither fault was measured
    parts += [
        f"{AXES[axis].name} not measured" for axis in (*FAULTS, "utility") if axis not in axes
    ]
    parts += filter(None, (_still_open(axis, entry, len(axes)) for axis, entry in axes.items()))
    return f"{', '.join(changes)}: {'; '.join(parts)}" if changes else "; ".join(parts)


def _is_unchanged(entry: AxisChange) -> bool:
    return PairCounts(**entry["pairs"]).discordant == 0


def _nothing_changed(axes: Mapping[str, AxisChange]) -> str:
    few = [
        f"{PairCounts(**entry['pairs']).n:,} {AXES[axis].cases}"
        for axis, entry in axes.items()
        if entry["verdict"] == "undecided"
    ]
    said = "nothing changed: every answer counts as it did before"
    return f"{said}; too few to exclude a loss beyond the margin: {', '.join(few)}" if few else said


def _change(axis: str, entry: AxisChange) -> str:
    """The difference; with its interval where it is not significant, or within the margin."""
    shown = f"{AXES[axis].name} {_signed(entry['difference'])}"
    if entry["verdict"] in ("improved", "worse", "no change"):
        return shown
    return f"{shown} [{_points(entry['low'])}, {_points(entry['high'])}]"


def _outcome(axes: Mapping[str, AxisChange]) -> str:
    """What became of the faults, and which other axes paid for it."""
    verdicts = {axis: entry["verdict"] for axis, entry in axes.items()}
    faults = [axis for axis in FAULTS if axis in verdicts]
    lower = [axis for axis in faults if verdicts[axis] == "improved"]
    price = [
        axis for axis, verdict in verdicts.items() if verdict == "worse" and axis not in FAULTS
    ]
    if not lower:
        return "; ".join(filter(None, (_unrepaired(faults, axes), *map(_loss, price))))
    rest = [axis for axis in faults if axis not in lower]
    if rest and verdicts[rest[0]] == "worse":
        outcome = "moved along the trade-off, repaired neither"
        return "; ".join([outcome, *map(_loss, price)])
    done = "lower" if price else "repaired"
    outcome = f"both faults {done}" if len(lower) == 2 else f"{AXES[lower[0]].name} {done}"
    outcome += f", {AXES[rest[0]].name} not" if rest else ""
    if price:
        return f"{outcome}, at the cost of {' and '.join(map(_price, price))}"
    return outcome + ", utility kept" * (verdicts.get("utility") in (*_KEPT, "improved"))


def _unrepaired(faults: list[str], axes: Mapping[str, AxisChange]) -> str:
    worse = [axis for axis in faults if axes[axis]["verdict"] == "worse"]
    if len(worse) == 2:
        return "both faults worse"
    if not worse and len(faults) == 2:
        unchanged = all(_is_unchanged(axes[axis]) for axis in faults)
        return "neither fault changed" if unchanged else "neither fault shown to be lower"
    said = {True: "worse", False: "not shown to be lower"}
    order = sorted(faults, key=lambda axis: axis not in worse)
    return ", ".join(f"{AXES[axis].name} {said[axis in worse]}" for axis in order)


def _loss(axis: str) -> str:
    return _price(axis) if AXES[axis].lower_is_better else f"{AXES[axis].name} lower"


def _price(axis: str) -> str:
    return f"more {AXES[axis].name}" if AXES[axis].lower_is_better else AXES[axis].name


def _still_open(axis: str, entry: AxisChange, family: int) -> str | None:
    """What the cases do not tell, and how many would; None where nothing is open.

    That no case changed tells little where few were asked.

    Args:
        family: over how many axes Holm's procedure ran.
    """
    if entry["verdict"] not in ("undecided", "not worse"):
        return None
    counts, words = PairCounts(**entry["pairs"]), AXES[axis]
    asked = f"{counts.n:,} {words.cases}"
    if axis in FAULTS and counts.difference < 0:
        # The strictest of Holm's levels: the number suffices whatever the other axes show.
        needed = cases_to_show(counts, LEVEL / family)
        if needed <= _MOST_CASES:
            fall = f"a fall of {words.name} of {_points(-counts.difference)} points"
            return f"{fall} is not shown by {asked}; {_about(needed)} would show it"
    if entry["verdict"] == "not worse":
        return None
    loss = counts.difference if AXES[axis].lower_is_better else -counts.difference
    margin = f"{100 * entry['margin']:g}"
    if loss >= entry["margin"]:
        return (
            f"the {words.loss} of {_points(loss)} points is itself not below the margin of "
            f"{margin}: more than {asked} would not exclude it"
        )
    needed = cases_to_exclude(counts, loss, entry["margin"])
    more = f"{_about(needed)} would tell"
    if needed > _MOST_CASES:
        more = f"it is so near the margin that {_MOST_CASES:,} would not tell"
    points = f"{margin} point{'s' * (margin != '1')} is not excluded with {asked}; {more}"
    if counts.discordant:
        return f"a {words.loss} of {points}"
    direction = "rise" if words.lower_is_better else "loss"
    return f"{words.name} did not change, but a {direction} of {points}"


def _about(cases: float) -> str:
    """Two digits: a number that rests on a few changed answers is no better."""
    unit = 10 ** max(math.floor(math.log10(cases)) - 1, 0)
    return f"about {round(cases / unit) * unit:,}"


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:.1f}"


def _signed(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}"
