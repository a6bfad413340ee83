"""Two charts that the inspection's page has beside heat maps: curves, and a table of shares."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from merge.pictures.panels import curve_axes, finish, heatmap_height, picture, ramp


class Curve(NamedTuple):
    """A share (fraction of 1) for every label; what is known from elsewhere is dashed."""

    name: str
    colour: str
    shares: Sequence[float]
    dashed: bool = False


def curves(title: str, labels: Sequence[str], drawn: Sequence[Curve]) -> str:
    """Curves over equally spaced labels."""

    def draw(axes: Axes) -> None:
        for curve in drawn:
            style: dict[str, Any] = {"ls": "--"} if curve.dashed else {"marker": "o", "ms": 3}
            axes.plot(curve.shares, color=curve.colour, label=curve.name, **style)
        axes.set_xticks(range(len(labels)), labels)
        curve_axes(axes, title)
        axes.legend(frameon=False, fontsize=8)

    return picture(title, 2.5, draw)


def grid(
    title: str, rates: Sequence[str], counts: Sequence[Sequence[int]], colour: str, size: int
) -> str:
    """Shares of ``size`` in percent, written into their cells: rows are of a, columns of b."""
    shares = [[count / size for count in row] for row in counts]
    limit = max(map(max, shares)) or 1.0

    def draw(axes: Axes) -> None:
        axes.pcolormesh(shares, cmap=ramp(colour), vmin=0, vmax=limit)
        for number, row in enumerate(shares):
            for place, share in enumerate(row):
                words = f"{100 * share:.2g}" if share < 0.1 else f"{100 * share:.0f}"
                ink = "white" if share > 0.55 * limit else "black"
                style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7}
                axes.text(place + 0.5, number + 0.5, words, color=ink, **style)
        places = [number + 0.5 for number in range(len(rates))]
        axes.set_xticks(places, rates)
        axes.set_yticks(places, rates)
        axes.invert_yaxis()
        axes.set_xlabel("b", fontsize=8)
        axes.set_ylabel("a", fontsize=8, rotation=0)
        finish(axes, title)

    return picture(title, heatmap_height(rates) + 0.2, draw)
