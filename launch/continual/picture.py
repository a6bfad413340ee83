"""The picture of continual alignment: three axes over the stages, for every way through them."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from merge.pictures.svg import svg_element

_COLOURS = ("#1f5aa6", "#d66816", "#5c3c82", "#2e7d4f", "#a3264b")


def draw(summary: Mapping[str, Any]) -> str:
    """An SVG file: harm of the stages so far, refusals, utility, and harm by stage.

    Args:
        summary: as in continual.json.
    """
    stages = list(summary["stages"])
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    harm, refusals, utility, by_stage = figure.subplots(2, 2).flat
    _draw_models(harm, summary, "harmful_rate_so_far", "harmful answers, stages so far (%)")
    _draw_models(refusals, summary, "refusal_rate", "refused harmless requests (%)")
    _draw_models(utility, summary, "utility", "utility (%)")
    for number, stage in enumerate(stages):
        path = [summary["backbone"], *summary["models"]["safepatching"]]
        rates = [entry["harmful_rate"][stage] for entry in path]
        _draw_line(by_stage, rates, f"harm of stage {stage}", number)
    by_stage.set_title("SafePatching: harmful answers by category (%)", fontsize=11, loc="left")
    for axes in (harm, refusals, utility, by_stage):
        axes.set_xticks(range(len(stages) + 1), ["backbone", *stages])
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(bottom=0)
    for axes in (harm, by_stage):
        axes.legend(frameon=False, fontsize=9)
    return svg_element(figure) + "\n"


def _draw_models(axes: Axes, summary: Mapping[str, Any], axis: str, title: str) -> None:
    for number, (name, path) in enumerate(summary["models"].items()):
        rates = [entry[axis] for entry in [summary["backbone"], *path] if axis in entry]
        if rates:
            _draw_line(axes, rates, name, number)
    axes.set_title(title, fontsize=11, loc="left")


def _draw_line(axes: Axes, rates: Sequence[Mapping[str, float]], name: str, number: int) -> None:
    """One curve with its intervals; moved a little aside, so that no curve hides another."""
    places = [place + 0.04 * number for place in range(len(rates))]
    values = [100 * rate["value"] for rate in rates]
    errors = [
        [100 * (rate["value"] - rate["low"]) for rate in rates],
        [100 * (rate["high"] - rate["value"]) for rate in rates],
    ]
    colour = _COLOURS[number % len(_COLOURS)]
    axes.errorbar(
        places, values, errors, color=colour, ecolor=colour, elinewidth=0.8, marker="o", ms=4,
        label=name,
    )  # fmt: skip
