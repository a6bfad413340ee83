"""The ROC curves of the refusal margin: refused harmful prompts against refused harmless ones."""

from collections.abc import Mapping
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from eval.report.curves import ModelMargins
from eval.report.headline import PATCHED
from eval.report.pictures.trade_off import colour_axes
from eval.report.record import Report
from merge.pictures.svg import INK, svg_element

_OTHERS = 4
"""Curves beside the backbone's and the patched model's."""
_NAME_LENGTH = 32


def roc_svg(report: Report) -> str:
    """An SVG element for a page: the backbone dashed, the patched model bold, few others thin.

    Args:
        report: with "margins" of one model at least.
    """
    figure = Figure(figsize=(5.6, 5.0), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.plot([0, 100], [0, 100], color=INK, lw=0.6, ls=":", alpha=0.6)
    margins = report.get("margins", {})
    names = _drawn(margins, report["backbone"])
    colours = iter(matplotlib.colormaps["viridis"]([0.25, 0.45, 0.65, 0.85]))
    for name in names:
        entry, auc = margins[name], margins[name]["auc"]
        assert auc is not None  # a model with margins has prompts of both axes
        style: dict[str, Any] = {"color": INK, "lw": 1.2, "ls": "--"}
        if name != report["backbone"]:
            bold = name == names[-1]
            style = {"color": INK if bold else next(colours), "lw": 2.2 if bold else 1.1}
        x, y = zip(*entry["curve"], strict=True)
        label = name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 3]}..."
        # The number first: a legend leaves out what begins with "_".
        label = f"{auc['value']:.3f}  {label}"
        axes.plot([100 * each for each in x], [100 * each for each in y], label=label, **style)
    axes.set_xlabel("harmless prompts with a margin above the threshold (%)")
    axes.set_ylabel("harmful prompts above it (%)")
    axes.set_aspect("equal")
    axes.grid(alpha=0.2, color=INK)
    colour_axes(axes)
    legend = axes.legend(
        frameon=False, labelcolor=INK, loc="lower right", title="area under the curve"
    )
    legend.get_title().set_color(INK)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name may hold "$"
    return svg_element(figure)


def _drawn(margins: Mapping[str, ModelMargins], backbone: str) -> list[str]:
    """The models with a curve: the backbone first, the patched model last, above the others."""
    first, *others = sorted(margins, key=lambda name: name != backbone)
    bold = PATCHED if PATCHED in others else next(iter(others), None)
    between = [name for name in others if name != bold][:_OTHERS]
    return [first, *between, *([bold] if bold else [])]
