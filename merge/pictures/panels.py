"""The panels of the merge's pictures, by matplotlib: heat maps and curves."""

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from merge.pictures.svg import TOOLTIP, svg_element

SAFETY, OVER_SAFETY, BOTH = "#1f5aa6", "#d66816", "#5c3c82"
"""Colours of the patches, in every picture."""
_FAINT = "#5d6670"
_WIDTH = 5.4
"""Inches of a picture of one panel."""


def picture(title: str, height: float, draw: Callable[[Axes], None]) -> str:
    """A picture of one panel as an SVG element for a page; ``height`` in inches."""
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    draw(figure.subplots())
    return svg_element(figure, title, salt=title)


def heatmap_height(rows: Sequence[str]) -> float:
    """Height of a heat map in inches."""
    return 0.55 + 0.2 * len(rows)


def percent(share: float) -> str:
    """A fraction of 1 in words."""
    return f"{100 * share:.3g} %"


def ramp(*colours: str) -> LinearSegmentedColormap:
    """From white to a colour, or from one over white to the other."""
    return LinearSegmentedColormap.from_list("", [*colours[:-1], "white", colours[-1]])


def heatmap(
    axes: Axes,
    title: str,
    cells: Mapping[tuple[int, str], float],
    rows: Sequence[str],
    colours: Sequence[str],
    limit: float,
    ends: tuple[str, str],
    written: Callable[[float], str] = percent,
) -> None:
    """Draw a grid of modules (rows) by layers (columns), and its scale beside it.

    Args:
        cells: values by layer and row, from 0 to ``limit``, or from -limit with two colours.
        colours: at ``limit``, or at -limit and ``limit``; 0 is white.
        ends: what stands at the scale's low and high end.
        written: a value in words, shown while the pointer is on its cell.
    """
    bound = limit or 1.0
    scale = ScalarMappable(Normalize(-bound if len(colours) > 1 else 0.0, bound), ramp(*colours))
    layers = sorted({layer for layer, _ in cells})
    for number, row in enumerate(rows):
        for layer in layers:
            if (layer, row) not in cells:
                continue
            value = cells[layer, row]
            words = f"{TOOLTIP}layer {layer}, {row}: {written(value)}"
            colour = scale.to_rgba(value)  # pyright: ignore[reportArgumentType]
            place = layer - 0.5, number - 0.5
            axes.add_patch(Rectangle(place, 1, 1, color=colour, lw=0.5, gid=words))
    axes.set_xlim(layers[0] - 0.5, layers[-1] + 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), rows)
    bar = axes.figure.colorbar(scale, ax=axes, pad=0.015, aspect=12, ticks=scale.get_clim())
    bar.ax.set_yticklabels(ends)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    finish(bar.ax)
    finish(axes, title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def curve_axes(axes: Axes, title: str, shares: bool = True) -> None:
    """Finish a panel of curves that begin at 0; of ``shares``, fractions of 1, in percent."""
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.4)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if shares:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    finish(axes, title)


def finish(axes: Axes, title: str = "") -> None:
    """Give a panel its title, and the quiet look of all of them."""
    axes.set_title(title, loc="left", weight="bold", fontsize=10)
    axes.tick_params(length=0, labelcolor=_FAINT, labelsize=8)
    axes.spines[:].set_visible(False)
