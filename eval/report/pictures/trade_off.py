"""The trade-off picture: harm against over-refusal, utility as colour."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath
from matplotlib.ticker import PercentFormatter

from eval.axes import FAULTS
from eval.report.headline import PATCHED
from eval.report.pictures.fronts import by_method
from eval.report.pictures.label_places import Box, place_labels
from eval.report.record import ModelRates, Report
from merge.pictures.svg import INK, svg_element

_PALETTE = "viridis"
_PLANE = FAULTS[::-1]
"""The picture's x and y."""
_WIDE, _NARROW = (7.2, 5.0), (4.2, 5.4)
"""Inches; on a screen of 420 pixels the letters of the narrow one are as large as the page's."""
_STYLES = (("o", "--"), ("^", ":"), ("s", "-."), ("D", "-"), ("v", "--"), ("P", ":"))
"""Mark and line of the methods of a search, in their order."""
_NAME_LENGTH = 24
_NAME_FONT = FontProperties(size=10)
_RADIUS = 5.0
"""Radius of a model's dot, in points."""
_RING, _MARK = 6.0, 1.5
"""Half the width of the ring of a chosen merge, and of a front's mark, in points."""
_PIECES = 6
"""Pieces of a front's line between two marks."""
_LEADER = 9.0
"""A name that is farther from its dot's rim than so many points gets a line to it."""
_LIGHT, _DARK = ("#1b1f24", "#ffffff"), ("#e6e8eb", "#15181c")
"""Text and ground of a picture that stands alone."""


def trade_off_svg(report: Report, narrow: bool = False) -> str:
    """An SVG element for a page: one point per model with error bars, a search's trials as dots.

    Good is at the lower left. Colour is utility, where the suites measure it.

    Args:
        narrow: for screens as wide as a phone's, on which the wide one's words are too small.
    """
    figure = Figure(figsize=_NARROW if narrow else _WIDE, layout="constrained")
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
    drawn = {name: rates for name, rates in report["models"].items() if set(FAULTS) <= rates.keys()}
    for rates in drawn.values():
        _draw_model(axes, rates, norm)
    axes.set_xlabel("refused harmless requests (%)")
    axes.set_ylabel("harmful answers (%)")
    axes.margins(x=0.14, y=0.08)  # room for the names
    axes.grid(alpha=0.2, color=INK)
    if utilities:
        mappable = ScalarMappable(norm, _PALETTE)
        place = "bottom" if narrow else "right"
        bar = figure.colorbar(mappable, ax=axes, label="utility", location=place)
        decimals = 0 if max(utilities) - min(utilities) > 0.05 else 1
        bar.formatter = PercentFormatter(1.0, decimals=decimals)
        colour_axes(bar.ax)
    colour_axes(axes)
    figure.draw_without_rendering()  # the points' places are known from here on
    for axis in (axes.xaxis, axes.yaxis):  # the room for names is no rate below 0 or above 100
        axis.set_ticks([tick for tick in axis.get_ticklocs() if 0 <= tick <= 100])
    _name_models(axes, drawn, trials)
    return svg_element(figure, salt="narrow" if narrow else "")


def _draw_search(axes: Axes, trials: Sequence[Mapping[str, Any]], norm: Normalize) -> None:
    """A mark for each trial and a line for each front, by method, and a ring for the choice."""
    styles = itertools.cycle(_STYLES)
    for (method, tried), (mark, line) in zip(by_method(trials).items(), styles, strict=False):
        for trial in tried:
            colour = _colour(trial.get("utility"), norm)
            # The rim is seen where the colour is near the page's, as dark ones on a dark page.
            axes.scatter(
                *_point(trial), s=16, alpha=0.5, color=colour, marker=mark,
                edgecolors=INK, linewidths=0.4,
            )  # fmt: skip
        front = _front(tried)
        label = f"front of {method}" if front else f"{method}, no front"
        along, up = zip(*front, strict=True) if front else ((), ())
        axes.plot(along, up, color=INK, lw=0.8, ls=line, marker=mark, ms=3, label=label)
    for trial in trials:
        if trial.get("chosen"):
            axes.scatter(
                *_point(trial), s=130, facecolors="none", edgecolors=INK, label="chosen setting"
            )
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, labelcolor=INK, loc="upper right", fontsize="small")


def _front(tried: Iterable[Mapping[str, Any]]) -> list[tuple[float, float]]:
    return sorted(_point(trial) for trial in tried if trial.get("pareto"))


def _point(trial: Mapping[str, Any]) -> tuple[float, float]:
    refused, harmful = (100 * trial[axis] for axis in _PLANE)
    return refused, harmful


def _rates_point(rates: ModelRates) -> tuple[float, float]:
    refused, harmful = (100 * rates[axis]["value"] for axis in _PLANE)
    return refused, harmful


def _draw_model(axes: Axes, rates: ModelRates, norm: Normalize) -> None:
    for ends in _bars(rates):
        axes.plot(*zip(*ends, strict=True), color=INK, lw=0.8, alpha=0.6)
    x, y = _rates_point(rates)
    colour = _colour(rates.get("utility", {}).get("value"), norm)
    axes.scatter(x, y, s=70, color=colour, edgecolors=INK, linewidths=0.8, zorder=3)


def _bars(rates: ModelRates) -> list[list[tuple[float, float]]]:
    """Both ends of the horizontal and of the vertical interval; no rate is outside 0 and 1."""
    x, y = _rates_point(rates)
    ends = ("low", "high")
    along, up = ([min(max(100 * rates[axis][end], 0), 100) for end in ends] for axis in _PLANE)
    return [[(end, y) for end in along], [(x, end) for end in up]]


def _name_models(
    axes: Axes, models: Mapping[str, ModelRates], trials: Sequence[Mapping[str, Any]]
) -> None:
    """Write each name beside its dot; the patched model's has the first choice of a place."""
    names = sorted(models, key=lambda name: name != PATCHED)
    shares = [_rates_point(models[name]) for name in names]
    scale = 72 / axes.figure.dpi  # from pixels to points
    places = [(x * scale, y * scale) for x, y in axes.transData.transform(shares)] if names else []
    labels = [
        name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 3]}..." for name in names
    ]
    legend = axes.get_legend()
    boxes = place_labels(
        places,
        [_text_size(label) for label in labels],
        _RADIUS,
        _box(axes.bbox, scale),
        [
            *_marks(axes, trials, scale),
            *([_box(legend.get_window_extent(), scale)] if legend else []),
        ],
        [
            *(_line(axes, ends, scale) for name in names for ends in _bars(models[name])),
            *_front_lines(axes, trials, scale),
        ],
    )
    for label, share, place, box in zip(labels, shares, places, boxes, strict=True):
        corner = (box.left - place[0], box.bottom - place[1])
        axes.annotate(
            label, share, corner, textcoords="offset points", color=INK, zorder=4,
            va="bottom", fontproperties=_NAME_FONT, parse_math=False,
        )  # fmt: skip
        if box.distance(place) > _RADIUS + _LEADER:
            end = tuple(of - to for of, to in zip(box.nearest(place), place, strict=True))
            line = {"arrowstyle": "-", "color": INK, "lw": 0.7, "shrinkA": 0, "shrinkB": _RADIUS}
            axes.annotate("", share, end, textcoords="offset points", arrowprops=line)


def _marks(axes: Axes, trials: Sequence[Mapping[str, Any]], scale: float) -> Iterator[Box]:
    """What the marks of fronts and the rings of choices cover, in points."""
    for trial in trials:
        half = _RING if trial.get("chosen") else _MARK if trial.get("pareto") else None
        if half is not None:
            yield _line(axes, [_point(trial)] * 2, scale).grown(half)


def _front_lines(axes: Axes, trials: Sequence[Mapping[str, Any]], scale: float) -> Iterator[Box]:
    """What the lines of the fronts cover, piece by piece: a whole one's box would be too large."""
    for tried in by_method(trials).values():
        for start, end in itertools.pairwise(_front(tried)):
            steps = np.linspace(start, end, _PIECES + 1)
            for piece in itertools.pairwise(map(tuple, steps)):
                yield _line(axes, list(piece), scale)


def _text_size(text: str) -> tuple[float, float]:
    """Width and height in points."""
    width, height, _ = TextToPath().get_text_width_height_descent(text, _NAME_FONT, ismath=False)
    return width, height


def _line(axes: Axes, ends: list[tuple[float, float]], scale: float) -> Box:
    places = scale * axes.transData.transform(ends)
    (left, bottom), (right, top) = places.min(axis=0), places.max(axis=0)
    return Box(left, bottom, right, top).grown(0.5)


def _box(artist_box: Any, scale: float) -> Box:
    return Box(*(scale * end for end in artist_box.extents))


def _colour(utility: float | None, norm: Normalize) -> Any:
    return "grey" if utility is None else matplotlib.colormaps[_PALETTE](norm(utility))


def colour_axes(axes: Axes) -> None:
    """Draw ticks, labels and frame in ``INK``."""
    axes.tick_params(colors=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    for spine in axes.spines.values():
        spine.set_edgecolor(INK)


def standalone(element: str) -> str:
    """An SVG file of an SVG element: with a ground, and colours of the reader's scheme.

    As a picture in a page it takes no colour from that page, which may be dark.
    """
    (ink, ground), (dark_ink, dark_ground) = _LIGHT, _DARK
    head, rest = element.split(">", 1)
    return (
        f'{head} color="{ink}">\n<style>@media (prefers-color-scheme: dark) '
        f"{{ svg {{ color: {dark_ink} }} .ground {{ fill: {dark_ground} }} }}</style>\n"
        f'<rect class="ground" width="100%" height="100%" fill="{ground}"/>{rest.rstrip()}\n'
    )
