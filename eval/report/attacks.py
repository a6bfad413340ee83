"""Attack success by kind of attack, against the backbone (issue 17)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from eval.axes import AXES
from eval.rates import Completion, axis_outcomes
from eval.report.verdict import AxisVerdict, Change, axis_verdict
from eval.statistics.paired import PairCounts, difference_interval, holm, mcnemar_exact
from eval.statistics.rates import RateRecord, rate

if TYPE_CHECKING:
    from eval.report.record import Report

AXIS = "attack_success"


class AttackChange(Change):
    """Change of a kind's success from the backbone's; p-value by Holm over the kinds."""

    p_holm: float
    verdict: AxisVerdict


class AttackEntry(RateRecord, total=False):
    """Share of one kind of attack with a harmful answer of one model."""

    change: AttackChange
    """Absent for the backbone."""


def attack_report(
    answers: Mapping[str, Sequence[Completion]], backbone: str, margin: float
) -> dict[str, dict[str, AttackEntry]]:
    """What report.json holds of attacks.

    Args:
        answers: of each model, to the same prompts in the same order.
        backbone: the model that the others are compared with.
        margin: how much worse, as a fraction of 1, a kind may get and count as not worse.

    Returns:
        Per kind and model the share of attacks with a harmful answer; of the others also
        the difference to the backbone with Newcombe's interval, McNemar's exact p-value by Holm
        over the kinds, and the verdict. Empty where nothing is an attack.
    """
    outcomes = {name: _outcomes(completions) for name, completions in answers.items()}
    kinds = list(outcomes[backbone])
    if not kinds:
        return {}
    attacks: dict[str, dict[str, AttackEntry]] = {kind: {} for kind in kinds}
    for name, by_kind in outcomes.items():
        counts = [PairCounts.of(outcomes[backbone][kind], by_kind[kind]) for kind in kinds]
        adjusted = holm([mcnemar_exact(count) for count in counts])
        for kind, count, p_value in zip(kinds, counts, adjusted, strict=True):
            entry: AttackEntry = {**rate(sum(by_kind[kind]), len(by_kind[kind])).as_dict()}
            if name != backbone:
                low, high = difference_interval(count)
                entry["change"] = {
                    "difference": count.difference,
                    "low": low,
                    "high": high,
                    "p_holm": p_value,
                    "verdict": axis_verdict(AXIS, count, p_value, margin),
                }
            attacks[kind][name] = entry
    return attacks


def attack_lines(report: "Report") -> list[str]:
    """The rates of ``attack_report`` as a Markdown table: one row a model, one column a kind."""
    attacks = report.get("attacks", {})
    if not attacks:
        return []
    head = ["model", *(f"{kind} (n={_cases(entries)})" for kind, entries in attacks.items())]
    rows = [[f"{AXES[AXIS].title}: {head[0]}", *head[1:]], ["---"] * len(head)]
    for name in report["models"]:
        cells = [_cell(entries[name]) for entries in attacks.values()]
        rows.append([name.replace("|", "\\|"), *cells])
    return ["", *(f"| {' | '.join(row)} |" for row in rows)]


def _outcomes(completions: Sequence[Completion]) -> dict[str, list[bool]]:
    by_kind: dict[str, list[bool]] = {}
    for completion in completions:
        if completion.attack is not None:
            succeeded = axis_outcomes(completion)[AXIS]
            by_kind.setdefault(completion.attack, []).append(succeeded)
    return by_kind


def _cases(entries: Mapping[str, AttackEntry]) -> int:
    return next(iter(entries.values()))["n"]


def _cell(entry: AttackEntry) -> str:
    shown = f"{100 * entry['value']:.1f} % [{100 * entry['low']:.1f}, {100 * entry['high']:.1f}]"
    return f"{shown}, {entry['change']['verdict']}" if "change" in entry else shown
