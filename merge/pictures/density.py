"""One picture a merge: where in the model either patch lives, and what became of it.

The paper's Figure 3 shows safety and over-safety in different layers. Here two grids show what is
kept of each patch by layer and module, a third which of the two prevails, a fourth what both want,
and three curves the kept share, the deltas' norms and what rounding erased, by layer.
"""

from collections.abc import Callable, Mapping

from merge.io.patch_directory import LETTERS
from merge.methods import METHODS
from merge.pictures import svg
from merge.pictures.density_curves import by_layer_and_module, ordered_modules
from merge.record.erasure import erased_share
from merge.record.merge_json import totals
from merge.settings import MergeSettings

NAME = "density.svg"
_WIDTH, _MARGIN, _GAP = 1120, 32, 40
_LINE_HEIGHT = 120
Report = Mapping[str, float]
Cells = dict[tuple[int, str], float]


def draw(name: str, settings: MergeSettings, tensors: Mapping[str, Report]) -> str | None:
    """The picture as SVG; None where no covered tensor stands in a numbered layer.

    Args:
        name: of the model, for the heading.
        tensors: as in merge.json.
    """
    reports = by_layer_and_module(tensors)
    if not reports:
        return None
    layers = sorted({layer for layer, _ in reports})
    found = {module for _, module in reports}
    modules = ordered_modules(found)
    parts = [_heading(name, settings)]
    top, half = 112.0, (_WIDTH - 2 * _MARGIN - _GAP) / 2
    grids = _grids(reports)
    for number, (title, cells, colours, limit, legend) in enumerate(grids):
        x = _MARGIN + number % 2 * (half + _GAP)
        y = top + number // 2 * (svg.heatmap_height(modules) + 34)
        parts.append(
            svg.heatmap((x, y), half, title, cells, layers, modules, colours, limit, legend)
        )
    top += 2 * (svg.heatmap_height(modules) + 34) + 6
    third = (_WIDTH - 2 * _MARGIN - 2 * _GAP) / 3
    for number, (title, curves, percent) in enumerate(_curves(reports)):
        place = (_MARGIN + number * (third + _GAP), top)
        parts.append(svg.lines(place, (third, _LINE_HEIGHT), title, curves, layers, percent))
    bottom = top + _LINE_HEIGHT + 38
    parts.append(svg.text(_WIDTH / 2, bottom, "decoder layer", 11, "middle", fill=svg.FAINT))
    return svg.page(_WIDTH, bottom + 18, f"Patches of {name} by layer and module", parts)


def _heading(name: str, settings: MergeSettings) -> str:
    used = (
        f"{settings.method}, top {settings.top_safety:g} and {settings.top_over_safety:g} by "
        f"{settings.scope}, retention {settings.retention:g}, alpha {settings.alpha:g}, "
        f"beta {settings.beta:g}, seed {settings.seed}"
    )
    if METHODS[settings.method].masked and settings.scope == "tensor":
        used += (
            " (by tensor, every tensor keeps about the same: overlap and norms tell layers apart)"
        )
    legend = "".join(
        f'<rect x="{x}" y="62" width="12" height="12" rx="2" fill="{svg.mix(colour, 1)}"/>'
        + svg.text(x + 18, 72, words, 12)
        for x, colour, words in (
            (_MARGIN, svg.SAFETY, "safety patch"),
            (_MARGIN + 120, svg.OVER_SAFETY, "over-safety patch"),
        )
    )
    return (
        svg.text(_MARGIN, 32, f"Where the patches of {name} live", 18, font_weight="600")
        + svg.text(_MARGIN, 51, used, 12, fill=svg.FAINT)
        + legend
    )


def _grids(
    reports: Mapping[tuple[int, str], Report],
) -> list[tuple[str, Cells, tuple[svg.Colour, svg.Colour], float, tuple[str, str]]]:
    def share(key: str) -> Cells:
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
    percent = f"{100 * most:.3g} %"
    return [
        ("kept of the safety patch", kept_s, (svg.SAFETY, svg.SAFETY), most, ("0", percent)),
        (
            "kept of the over-safety patch",
            kept_o,
            (svg.OVER_SAFETY, svg.OVER_SAFETY),
            most,
            ("0", percent),
        ),
        (
            "which patch prevails",
            balance,
            (svg.OVER_SAFETY, svg.SAFETY),
            strongest,
            (f"over-safety by {strongest:.0%}", f"safety by {strongest:.0%}"),
        ),
        (
            "wanted by both top sets",
            overlap,
            (svg.BOTH, svg.BOTH),
            widest,
            ("0", f"{100 * widest:.3g} %"),
        ),
    ]


def _curves(
    reports: Mapping[tuple[int, str], Report],
) -> list[tuple[str, dict[str, dict[int, float]], bool]]:
    by_layer: dict[int, list[Report]] = {}
    for (layer, _), report in reports.items():
        by_layer.setdefault(layer, []).append(report)

    def curve(value: Callable[[list[Report], str], float | None]) -> dict[str, dict[int, float]]:
        return {
            svg.mix(colour, 1): {
                layer: found
                for layer, group in sorted(by_layer.items())
                if (found := value(group, patch)) is not None
            }
            for patch, colour in zip(LETTERS.values(), (svg.SAFETY, svg.OVER_SAFETY), strict=True)
        }

    return [
        ("kept, all modules", curve(_kept), True),
        ("norm of the whole delta", curve(_norm), False),
        ("erased by rounding, of nonzero entries kept", curve(_erased), True),
    ]


def _kept(group: list[Report], patch: str) -> float:
    return sum(r[f"kept_{patch}"] for r in group) / sum(r["elements"] for r in group)


def _norm(group: list[Report], patch: str) -> float:
    return sum(r[f"norm_{patch}"] ** 2 for r in group) ** 0.5


def _erased(group: list[Report], patch: str) -> float | None:
    return erased_share(totals(group), patch)
