"""The evaluation of a run's patched model in its model card (issue 15)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.axes import AXES
from eval.report.headline import PATCHED
from eval.report.record import Report
from eval.report.table import markdown_table
from merge.io.companions import CARD
from merge.record.model_card import base_model, put_evaluation, rewrite_card


def write_evaluation(patched: Path, backbone: Path, report: Report) -> None:
    """Put the rates of the patched model and its backbone into the card.

    Args:
        report: of ``eval.report.compare``, with both models in it.

    Raises:
        UserError: a file of the patched model cannot be read or written.
    """
    shown = {name: report["models"][name] for name in (report["backbone"], PATCHED)}
    section = markdown_table({**report, "models": shown})
    results = model_index(f"{base_model(backbone).rpartition('/')[2]}-patched", report)
    file = patched / CARD
    card = file.read_text(encoding="utf-8") if file.is_file() else ""
    rewrite_card(patched, put_evaluation(card, section, results))


def model_index(name: str, report: Report) -> Sequence[dict[str, Any]]:
    """The three axes as the hub's model cards have results; rates and intervals in %."""
    rates = report["models"][PATCHED]
    suites = report.get("suites", {})[PATCHED]
    results = []
    for axis, kind in AXES.items():
        if kind.prompts is None or axis not in rates:
            continue
        percentages = {key: round(100 * rates[axis][key], 2) for key in ("value", "low", "high")}
        names = [suite for suite, of in suites.items() if of["axis"] == kind.prompts]
        title = (
            f"{AXES[axis].title} (%, 95 % interval {percentages['low']} to {percentages['high']})"
        )
        results.append(
            {
                "task": {"type": "text-generation", "name": "Text generation"},
                "dataset": {"type": "-".join(names), "name": ", ".join(names)},
                "metrics": [{"type": axis, "name": title, "value": percentages["value"]}],
            }
        )
    return [{"name": name, "results": results}]
