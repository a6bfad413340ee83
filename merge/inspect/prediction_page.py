"""The part of the inspection's page that says whether a repair is within the patches' reach."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from merge.pictures.panels import OVER_SAFETY, SAFETY, heatmap, heatmap_height, picture

_GROUPINGS = {
    "global": "one scale each",
    "layers": "scales by layer",
    "modules": "scales by module",
    "tensors": "a scale for each tensor",
}
_ROWS = ("harmful", "harmless", "apart")
"""Lines of a picture by layer: both changes, and how far they drive the margins apart."""


def rows(prediction: Mapping[str, Any]) -> list[list[str]]:
    """What the best scales of every part would do, after the backbone: cells of a table.

    Args:
        prediction: a dump of ``merge.inspect.prediction.Prediction``.
    """
    before = prediction["before"]
    lines = [_row("backbone", "", before, before)]
    for part in prediction["parts"]:
        name = f"{part['part']}, {_GROUPINGS[part['grouping']]}"
        lines.append(_row(name, str(part["scales"]), part, before))
    return lines


def _row(name: str, scales: str, rates: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    matched = rates["auc_matched"]
    cells = [name, scales, f"{rates['auc']:.3f}"]
    cells.append("" if matched is None else f"{matched:.3f}")
    for key in ("harmful_rate", "refusal_rate"):
        cells.append(f"{100 * rates[key]:.1f}")
        change = 100 * (rates[key] - before[key])
        cells.append("" if rates is before else f"{change:+.1f}")
    return cells


def by_layer(prediction: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A picture and its words for either patch: the margins' changes by decoder layer."""
    layers: Sequence[Mapping[str, Any]] = prediction["layers"]
    if not layers:
        return []
    patches = {"safety": "safety", "over_safety": "over-safety"}
    cells = {role: _cells(layers, role) for role in patches}
    # One scale for both patches: they are to be compared.
    limit = max(abs(value) for of_role in cells.values() for value in of_role.values())
    ends = (f"-{limit:.2g}", f"+{limit:.2g} nats")
    figures = []
    for role, patch in patches.items():
        title = f"refusal margins, {patch} patch"
        draw = partial(
            heatmap, title=title, cells=cells[role], rows=_ROWS, colours=(OVER_SAFETY, SAFETY),
            limit=limit, ends=ends, written=lambda value: f"{value:+.3g} nats",
        )  # fmt: skip
        words = (
            "Predicted change of the mean log-odds of a refusal, on harmful and on harmless "
            f"questions, per unit of scale of one decoder layer's entries of the {patch} patch; "
            "apart: harmful less harmless, above 0 where the layer tells them apart. A layer of "
            "the wrong sign can be scaled below 0."
        )
        figures.append((picture(title, heatmap_height(_ROWS), draw), words))
    return figures


def _cells(layers: Sequence[Mapping[str, Any]], role: str) -> dict[tuple[int, str], float]:
    cells = {}
    for layer in layers:
        harmful, harmless = layer[role]["harmful"], layer[role]["harmless"]
        for row, value in zip(_ROWS, (harmful, harmless, harmful - harmless), strict=True):
            cells[layer["layer"], row] = value
    return cells
