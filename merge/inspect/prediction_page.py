"""The section of the inspection's page that says whether a repair is within the patches' reach."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from merge.pictures import svg

STYLE = (
    "table{border-collapse:collapse;font-size:14px}th,td{padding:3px 12px;text-align:right;"
    "border-bottom:1px solid #dfe3e8}th:first-child,td:first-child{text-align:left;padding-left:0}"
    "section{overflow-x:auto}section p{font-size:13.5px;color:#454c55}"
)
_WIDTH = 540
_COLUMNS = (
    "part of the patches", "scales", "AUC", "AUC, matched forms", "harm (%)", "change",
    "refusals (%)", "change",
)  # fmt: skip
_GROUPINGS = {
    "global": "one scale each",
    "layers": "scales by layer",
    "modules": "scales by module",
    "tensors": "a scale for each tensor",
}
_ROWS = ("harmful", "harmless", "apart")
"""Lines of a picture by layer: both changes, and how far they drive the margins apart."""


def table(prediction: Mapping[str, Any]) -> str:
    """What the best scales of every part would do, as an HTML section.

    Args:
        prediction: a dump of ``merge.inspect.prediction.Prediction``.
    """
    before, questions = prediction["before"], prediction["questions"]
    rows = [_row("backbone", "", before, before)]
    for part in prediction["parts"]:
        name = f"{part['part']}, {_GROUPINGS[part['grouping']]}"
        rows.append(_row(name, str(part["scales"]), part, before))
    head = "".join(f"<th>{column}</th>" for column in _COLUMNS)
    words = (
        f"Predicted from {questions['harmful']} harmful and {questions['harmless']} harmless "
        "validation questions, each held out from the fit that predicts it; nothing was merged or "
        "answered. The refusal margins of the backbone are taken as linear in the scales, so large "
        "changes are less certain than small ones. Harm: harmful questions that are not refused; "
        "refusals: harmless ones that are. AUC: how often a harmful question has the higher "
        "margin of a harmful and a harmless one. Scales that only move the model along its curve "
        "trade one fault for the other and leave the AUC; a repair raises it. On matched forms "
        "both sides are worded alike, so that the gain cannot come from the wording."
    )
    return (
        "<section><h2>Is a repair within reach?</h2>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        f"<p>{escape(words)}</p></section>"
    )


def _row(name: str, scales: str, rates: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    matched = rates["auc_matched"]
    cells = [escape(name), scales, f"{rates['auc']:.3f}"]
    cells.append("" if matched is None else f"{matched:.3f}")
    for key in ("harmful_rate", "refusal_rate"):
        cells.append(f"{100 * rates[key]:.1f}")
        change = 100 * (rates[key] - before[key])
        cells.append("" if rates is before else f"{change:+.1f}")
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def by_layer(prediction: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A picture and its words for either patch: the margins' changes by decoder layer."""
    layers: Sequence[Mapping[str, Any]] = prediction["layers"]
    if not layers:
        return []
    patches = {"safety": "safety", "over_safety": "over-safety"}
    cells = {role: _cells(layers, role) for role in patches}
    # One scale for both patches: they are to be compared.
    limit = max(abs(value) for of_role in cells.values() for value in of_role.values())
    numbers = sorted(layer["layer"] for layer in layers)
    figures = []
    for role, patch in patches.items():
        title = f"refusal margins, {patch} patch"
        legend = (f"-{limit:.2g}", f"+{limit:.2g} nats")
        image = svg.heatmap(
            (0, 26), _WIDTH, title, cells[role], numbers, _ROWS, (svg.OVER_SAFETY, svg.SAFETY),
            limit, legend, lambda value: f"{value:+.3g} nats",
        )  # fmt: skip
        height = 30 + svg.heatmap_height(_ROWS)
        words = (
            "Predicted change of the mean log-odds of a refusal, on harmful and on harmless "
            f"questions, per unit of scale of one decoder layer's entries of the {patch} patch; "
            "apart: harmful less harmless, above 0 where the layer tells them apart. A layer of "
            "the wrong sign can be scaled below 0."
        )
        figures.append((svg.page(_WIDTH, height, title, [image]), words))
    return figures


def _cells(layers: Sequence[Mapping[str, Any]], role: str) -> dict[tuple[int, str], float]:
    found = {}
    for layer in layers:
        harmful, harmless = layer[role]["harmful"], layer[role]["harmless"]
        for row, value in zip(_ROWS, (harmful, harmless, harmful - harmless), strict=True):
            found[layer["layer"], row] = value
    return found
