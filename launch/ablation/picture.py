"""sensitivity.svg: how the axes follow each merge setting, and the spread over retention seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.axes import AXES
from eval.report.pictures.trade_off import colour_axes, standalone
from launch.ablation.record_types import AblationRecord, CurvePoint, SeedSpread
from merge.pictures.svg import INK, svg_element

_COLOURS = {key: axis.colour for key, axis in AXES.items() if axis.colour}
"""The axes that are drawn."""
_WORDS = {
    "top_safety": "a, top rate of the safety patch",
    "top_over_safety": "b, top rate of the over-safety patch",
    "retention": "p, retention rate",
    "alpha": "alpha, scale of the safety patch",
    "beta": "beta, scale of the over-safety patch",
}


def draw(record: AblationRecord) -> str:
    """A panel for each curve, with its intervals, and one for the retention seeds.

    Returns:
        SVG text, the same for the same record.
    """
    figure = Figure(figsize=(10.5, 6.0), layout="constrained")
    figure.patch.set_alpha(0)
    panels = figure.subplots(2, 3, sharey=True).flat
    for key, points in record["curves"].items():
        panel = next(panels)
        _draw_curve(panel, key, points)
        for place in _chosen_places(key, points, record["chosen"]):
            panel.axvline(place, color=INK, lw=0.8, ls=":")
    _draw_seeds(next(panels), record["retention_seeds"])
    for panel in panels:
        panel.set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=3, frameon=False, labelcolor=INK
    )
    figure.supylabel("rate (%)", color=INK, fontsize=10)
    return standalone(svg_element(figure))


def _draw_curve(panel: Axes, key: str, points: Sequence[CurvePoint]) -> None:
    places = range(len(points))
    for axis, colour in _COLOURS.items():
        if any(axis not in point["axes"] for point in points):
            continue
        value, low, high = (
            [100 * point["axes"][axis][end] for point in points] for end in ("value", "low", "high")
        )
        panel.plot(places, value, color=colour, marker="o", ms=4, label=AXES[axis].title)
        panel.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
    sign = "" if key == "retention" else "x"
    panel.set_xticks(places, [_label(sign, point) for point in points])
    _finish(panel, _WORDS[key])


def _chosen_places(
    key: str, points: Sequence[CurvePoint], chosen: Sequence[Mapping[str, Any]]
) -> list[float]:
    """Where on the panel the chosen value stands: for the retention in each run elsewhere."""
    positions = [point["position"] for point in points]
    if key != "retention":
        return [positions.index(1.0)]
    return [float(np.interp(run[key], positions, range(len(positions)))) for run in chosen]


def _label(sign: str, point: CurvePoint) -> str:
    label = f"{sign}{point['position']:g}"
    # Of several runs each has another value there.
    one = sign and len(point["values"]) == 1
    return f"{label}\n{point['values'][0]:.2g}" if one else label


def _draw_seeds(panel: Axes, runs: Sequence[SeedSpread]) -> None:
    for axis, colour in _COLOURS.items():
        for place, run in enumerate(runs):
            values = [100 * value for value in run["axes"].get(axis, {"values": []})["values"]]
            panel.scatter([place] * len(values), values, s=14, color=colour, alpha=0.6, lw=0)
    panel.set_xticks(range(len(runs)), [f"run {place + 1}" for place in range(len(runs))])
    panel.set_xlim(-0.6, len(runs) - 0.4)
    _finish(panel, f"{len(runs[0]['seeds'])} retention seeds, all else chosen")


def _finish(panel: Axes, title: str) -> None:
    panel.set_title(title, fontsize=10, color=INK)
    panel.set_ylim(-3, 103)
    panel.grid(alpha=0.2, color=INK)
    panel.patch.set_alpha(0)
    colour_axes(panel)
