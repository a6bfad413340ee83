"""What a reader of a model's rates must know beside them, a line each."""

from pathlib import Path
from typing import Any

from eval.judges.judged import unfinished_note, unparsed_notes
from eval.judges.judges import RULES
from eval.statistics.summary import Summary
from eval.text.language import language_notes
from merge.common.files import read_json
from merge.engine.journal import RECORD
from merge.io.patch_directory import Role
from merge.record.erasure import PATCH_NAMES, mostly_erased


def coverage_of(model: Path) -> float | None:
    """Which share of the blocks' linear weights a merge has covered, as a fraction of 1.

    Returns:
        ``None`` for a model that no merge of this project made, or an older version of it.
    """
    covered = _record_of(model).get("coverage")
    return covered["share"] if covered else None


def erased_of(model: Path) -> dict[Role, float]:
    """The patches of which rounding erased most in the merge that made a model, with the shares.

    Returns:
        By role; empty for a model that no merge of this project made, or an older version of it.
    """
    record = _record_of(model)
    rounding = record.get("settings", {}).get("rounding", "nearest")
    return {**mostly_erased(record.get("totals", {}), rounding)}


def _record_of(model: Path) -> dict[str, Any]:
    record = model / RECORD
    return read_json(record) if record.is_file() else {}


def notes_of(summary: Summary) -> list[str]:
    """Notes on one summary: languages, reasoning, unread verdicts, what its merge did, rows that
    were left out."""
    unfinished = unfinished_note(summary["suites"])
    share = summary.get("coverage")
    covered = f"the merge covers {share or 0:.1%} of the linear weights inside the decoder blocks"
    # A model may know other languages, and its file does not say which.
    is_by_rules = summary.get("refusal_rule", RULES) == RULES
    return [
        *(language_notes(summary["suites"]) if is_by_rules else []),
        *([unfinished] if unfinished else []),
        *unparsed_notes(summary["suites"]),
        *([covered] if share is not None else []),
        *(
            f"'{name}' was not asked, as {', '.join(files)} is not there"
            for name, files in summary.get("left_out", {}).items()
        ),
        *(
            f"rounding erased {part:.1%} of the nonzero entries kept of the {PATCH_NAMES[role]}: "
            "these rates say little about it; merge.rounding=stochastic would"
            for role, part in summary.get("erased", {}).items()
        ),
    ]
