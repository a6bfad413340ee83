"""One picture a merge: where in the model either patch lives, and what became of it.

The paper's Figure 3 shows safety and over-safety in different layers. Here two grids show what is
kept of each patch by layer and module, a third which of the two prevails, a fourth what both want,
and three curves the kept share, the deltas' norms and what rounding erased, by layer.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from merge.common.files import atomic_write_text
from merge.common.settings import parse_settings
from merge.engine.journal import RECORD
from merge.io.patch_directory import LETTERS, Role
from merge.methods import METHODS
from merge.pictures.density_curves import by_layer_and_module, ordered_modules
from merge.pictures.panels import (
    BOTH,
    OVER_SAFETY,
    SAFETY,
    curve_axes,
    heatmap,
    heatmap_height,
    percent,
)
from merge.pictures.svg import svg_element
from merge.record.erasure import erased_share
from merge.record.merge_json import read_merge_record, totals
from merge.settings import MergeSettings

NAME = "density.svg"
_NORM = "norm of the whole delta"
_COLOURS: dict[Role, str] = {"safety": SAFETY, "over_safety": OVER_SAFETY}
_CURVES = 2.6
"""Height of the curves and what is below them, in inches."""
Report = Mapping[str, float]
Reports = Mapping[tuple[int, str], Report]


def write(model: Path) -> Path | None:
    """Draw a merged model's picture into its folder, from its merge.json.

    Returns:
        The file; None where no covered tensor stands in a numbered layer.

    Raises:
        UserError: there is no finished merge, or the file cannot be written.
    """
    record = read_merge_record(model)
    settings = parse_settings(MergeSettings, record["settings"], str(model / RECORD))
    name = Path(record["inputs"]["backbone"]["path"]).resolve().name
    image = draw(name, settings, record["tensors"])
    if image is None:
        return None
    atomic_write_text(model / NAME, image)
    return model / NAME


def draw(name: str, settings: MergeSettings, tensors: Mapping[str, Report]) -> str | None:
    """The picture as SVG; None where no covered tensor stands in a numbered layer.

    Args:
        name: of the model, for the heading.
        tensors: as in merge.json.
    """
    reports = by_layer_and_module(tensors)
    if not reports:
        return None
    modules = ordered_modules({module for _, module in reports})
    heights = [2 * heatmap_height(modules) + 0.3, _CURVES]
    figure = Figure(figsize=(11.2, sum(heights)), layout="constrained")
    grids, curves = figure.subfigures(2, 1, squeeze=False, height_ratios=heights).flat
    _draw_grids(list(grids.subplots(2, 2).flat), reports, modules)
    _draw_curves(curves.subplots(1, 3), reports)
    title = f"Where the patches of {name} live"
    # A name may hold "$".
    grids.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=14, parse_math=False)
    curves.legend(
        [Line2D([], [], color=colour, lw=5) for colour in _COLOURS.values()],
        ["safety patch", "over-safety patch"],
        title=_used(settings), loc="outside lower left", ncols=2, frameon=False, alignment="left",
        fontsize=9, title_fontsize=9,
    )  # fmt: skip
    return svg_element(figure, f"Patches of {name} by layer and module")


def _used(settings: MergeSettings) -> str:
    used = (
        f"{settings.method}, top {settings.top_safety:g} and {settings.top_over_safety:g} by "
        f"{settings.scope}, retention {settings.retention:g}, alpha {settings.alpha:g}, "
        f"beta {settings.beta:g}, seed {settings.seed}"
    )
    if METHODS[settings.method].masked and settings.scope == "tensor":
        used += (
            " (by tensor, every tensor keeps about the same: overlap and norms tell layers apart)"
        )
    return used


def _draw_grids(panels: Iterable[Axes], reports: Reports, modules: list[str]) -> None:
    def share(key: str) -> dict[tuple[int, str], float]:
        return {place: report[key] / report["elements"] for place, report in reports.items()}

    kept_s, kept_o, overlap = share("kept_S"), share("kept_O"), share("overlap")
    # One scale for both patches: they are to be compared.
    most = max((*kept_s.values(), *kept_o.values()))
    balance = {
        place: (kept_s[place] - kept_o[place]) / ((kept_s[place] + kept_o[place]) or 1)
        for place in kept_s
    }
    # Not below 10 %: chance alone makes small differences, which should stay pale.
    strongest, widest = max(*map(abs, balance.values()), 0.1), max(overlap.values())
    to_most, to_widest = ("0", percent(most)), ("0", percent(widest))
    by = (f"over-safety\nby {strongest:.0%}", f"safety\nby {strongest:.0%}")
    both = (OVER_SAFETY, SAFETY)
    kept, want, prevails, over = panels
    heatmap(kept, "kept of the safety patch", kept_s, modules, [SAFETY], most, to_most)
    heatmap(want, "kept of the over-safety patch", kept_o, modules, [OVER_SAFETY], most, to_most)
    heatmap(prevails, "which patch prevails", balance, modules, both, strongest, by)
    heatmap(over, "wanted by both top sets", overlap, modules, [BOTH], widest, to_widest)


def curves_by_layer(reports: Reports) -> dict[str, dict[Role, dict[int, float | None]]]:
    """Values of the curves by title, patch and decoder layer; None where a record has none."""
    by_layer: dict[int, list[Report]] = {}
    for (layer, _), report in sorted(reports.items()):
        by_layer.setdefault(layer, []).append(report)
    values: dict[str, Callable[[list[Report], str], float | None]] = {
        "kept, all modules": _kept,
        _NORM: _norm,
        "erased by rounding, of nonzero kept": _erased,
    }
    return {
        title: {
            role: {layer: value(group, letter) for layer, group in by_layer.items()}
            for role, letter in LETTERS.items()
        }
        for title, value in values.items()
    }


def _draw_curves(panels: Iterable[Axes], reports: Reports) -> None:
    for axes, (title, curves) in zip(panels, curves_by_layer(reports).items(), strict=True):
        for role, points in curves.items():
            axes.plot(*zip(*points.items(), strict=True), color=_COLOURS[role], marker="o", ms=3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("decoder layer", fontsize=8)
        curve_axes(axes, title, shares=title != _NORM)


def _kept(group: list[Report], patch: str) -> float:
    return sum(r[f"kept_{patch}"] for r in group) / sum(r["elements"] for r in group)


def _norm(group: list[Report], patch: str) -> float:
    return sum(r[f"norm_{patch}"] ** 2 for r in group) ** 0.5


def _erased(group: list[Report], patch: str) -> float | None:
    return erased_share(totals(group), patch)
