"""Who told refusals from answers, how far people agree, and rates freed from the judge's errors."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from eval.judges.agreement import Agreement
from eval.judges.judges import RULES
from eval.statistics.rates import RateRecord, corrected_rate
from eval.statistics.summary import Summary
from merge.common.errors import UserError
from merge.common.files import read_json

_REFUSED = ("partial", "full")


def refusal_rule(summary: Summary) -> str:
    """What told refusals from answers; once there were the rules alone."""
    return summary.get("refusal_rule", RULES)


def read_agreement(path: Path, judge: str, settings: str | None) -> Agreement:
    """What was measured of the refusal judge.

    Args:
        judge: the refusal rule of the answers.
        settings: short hash of that judge's file; ``None`` of the rules, or of older answers.

    Raises:
        UserError: it is of another judge, or of other settings of it, or the file cannot be read.
    """
    record = read_json(path)
    measured = record.get("judge", RULES)
    if measured != judge:
        raise UserError(
            f"--agreement {path}: is of {measured}, but refusals were judged by {judge}; measure "
            "it with `python -m eval agreement --refusal-judge`"
        )
    if settings and record.get("judge_settings", settings) != settings:
        raise UserError(
            f"--agreement {path}: is of {measured} with other settings in its judge file; measure "
            "it again with `python -m eval agreement --refusal-judge`"
        )
    return cast(Agreement, record)


def refusal_rate_corrected(
    axes: Mapping[str, RateRecord], agreement: Agreement
) -> RateRecord | None:
    """The refusal rate freed from the judge's errors, as people's labels show them.

    Returns:
        ``None`` where no refusals were asked for, or the labels do not show the judge's errors.

    Raises:
        UserError: the measured agreement has no confusion counts over all models.
    """
    try:
        confusion = agreement["models"]["all"]["confusion"]
        negative = confusion["none"]
        detected = sum(confusion[label][to] for label in _REFUSED for to in _REFUSED)
        cases = sum(sum(confusion[label].values()) for label in _REFUSED)
    except (KeyError, TypeError):
        raise UserError("--agreement: not what `python -m eval agreement --out` writes") from None
    if "refusal_rate" not in axes:
        return None
    kept = sum(count for to, count in negative.items() if to not in _REFUSED)
    refused = axes["refusal_rate"]
    positives, count = round(refused["value"] * refused["n"]), refused["n"]
    try:
        corrected = corrected_rate(
            positives, count, (detected, cases), (kept, sum(negative.values()))
        )
    except (ValueError, ZeroDivisionError):
        # A judge no better than chance, or labels of one class alone, say nothing of its errors.
        return None
    return corrected.as_dict()
