"""The trade-off picture: harm against over-refusal, utility as colour."""

import io
import itertools
import re
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

INK = "#12ab34"
"""Drawn in this, replaced by the page's text colour: pictures follow light and dark."""
_PALETTE = "viridis"
_NAME_LENGTH = 24
_NAME_WIDTH = 120
"""Points that a name of that length takes."""


def trade_off_svg(report: dict[str, Any]) -> str:
    """An SVG element for a page: one point per model with error bars, a search's trials as dots.

    Good is at the lower left. Colour is utility, where the suites measure it.
    """
    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    utilities = [
        rates["utility"]["value"] for rates in report["models"].values() if "utility" in rates
    ]
    trials = report.get("search", {}).get("trials", [])
    utilities += [trial["utility"] for trial in trials if "utility" in trial]
    norm = Normalize(min(utilities, default=0), max(utilities, default=1) or 1)
    _draw_search(axes, trials, norm)
    drawn = {
        name: rates
        for name, rates in report["models"].items()
        if {"harmful_rate", "refusal_rate"} <= rates.keys()
    }
    for rates in drawn.values():
        _draw_model(axes, rates, norm)
    axes.set_xlabel("refused harmless requests (%)")
    axes.set_ylabel("harmful answers (%)")
    axes.margins(x=0.14, y=0.08)  # room for the names
    axes.grid(alpha=0.2, color=INK)
    if utilities:
        mappable = ScalarMappable(norm, _PALETTE)
        bar = figure.colorbar(mappable, ax=axes, label="utility")
        decimals = 0 if max(utilities) - min(utilities) > 0.05 else 1
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=decimals))
        colour_axes(bar.ax)
    colour_axes(axes)
    figure.draw_without_rendering()  # the points' places are known from here on
    _name_models(axes, drawn)
    return svg_element(figure)


def _draw_search(axes: Axes, trials: list[dict[str, Any]], norm: Normalize) -> None:
    front = sorted(
        (100 * trial["refusal_rate"], 100 * trial["harmful_rate"])
        for trial in trials
        if trial.get("pareto")
    )
    for trial in trials:
        axes.scatter(
            100 * trial["refusal_rate"],
            100 * trial["harmful_rate"],
            s=12,
            alpha=0.5,
            color=_colour(trial.get("utility"), norm),
            linewidths=0,
        )
        if trial.get("chosen"):
            point = (100 * trial["refusal_rate"], 100 * trial["harmful_rate"])
            axes.scatter(*point, s=130, facecolors="none", edgecolors=INK, label="chosen setting")
    if front:
        axes.plot(*zip(*front, strict=True), color=INK, lw=0.8, ls="--", label="Pareto front")
        axes.legend(frameon=False, labelcolor=INK, loc="upper right")


def _draw_model(axes: Axes, rates: dict[str, Any], norm: Normalize) -> None:
    refusal, harm = rates["refusal_rate"], rates["harmful_rate"]
    x, y = 100 * refusal["value"], 100 * harm["value"]
    axes.errorbar(
        x,
        y,
        xerr=[[x - 100 * refusal["low"]], [100 * refusal["high"] - x]],
        yerr=[[y - 100 * harm["low"]], [100 * harm["high"] - y]],
        fmt="none",
        ecolor=INK,
        elinewidth=0.8,
        alpha=0.6,
    )
    colour = _colour(rates.get("utility", {}).get("value"), norm)
    axes.scatter(x, y, s=70, color=colour, edgecolors=INK, linewidths=0.8, zorder=3)


def _name_models(axes: Axes, models: dict[str, dict[str, Any]]) -> None:
    """Write each name beside its point, at the first height where no other name stands."""
    taken: list[tuple[float, float]] = []
    for name, rates in models.items():
        point = (100 * rates["refusal_rate"]["value"], 100 * rates["harmful_rate"]["value"])
        x, y = axes.transData.transform(point) * 72 / axes.figure.dpi  # in points of the figure
        offset = next(
            offset
            for offset in itertools.chain((6, -14), itertools.count(20, 14))
            if all(abs(x - u) > _NAME_WIDTH or abs(y + offset - v) >= 12 for u, v in taken)
        )
        taken.append((x, y + offset))
        label = name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 3]}..."
        axes.annotate(
            label, point, xytext=(7, offset), textcoords="offset points", color=INK, zorder=4
        )


def _colour(utility: float | None, norm: Normalize) -> Any:
    return "grey" if utility is None else matplotlib.colormaps[_PALETTE](norm(utility))


def colour_axes(axes: Axes) -> None:
    """Draw ticks, labels and frame in ``INK``."""
    axes.tick_params(colors=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    for spine in axes.spines.values():
        spine.set_edgecolor(INK)


def svg_element(figure: Figure) -> str:
    """The figure as an SVG element without a size, for a page or a file."""
    buffer = io.StringIO()
    # Same report, same bytes: SVG ids are otherwise random. Text stays text.
    with matplotlib.rc_context({"svg.hashsalt": "safepatching", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    drawing = buffer.getvalue()
    # The XML prologue has no place inside a page, and names an address.
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", drawing, count=1)
    drawing = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", drawing, count=1)
    return drawing.replace(INK, "currentColor")
