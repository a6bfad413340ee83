"""What a reader of a model's rates must know beside them, a line each."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.judged import unfinished_note
from eval.language import language_notes
from merge.files import read_json
from merge.journal import RECORD


def coverage_of(model: Path) -> float | None:
    """Which share of the blocks' linear weights a merge has covered, as a fraction of 1.

    Returns:
        ``None`` for a model that no merge of this project made, or an older version of it.
    """
    record = model / RECORD
    covered = read_json(record).get("coverage") if record.is_file() else None
    return covered["share"] if covered else None


def notes_of(summary: Mapping[str, Any]) -> list[str]:
    """Notes on one summary: languages, unfinished reasoning, and what its merge covered."""
    unfinished = unfinished_note(summary["suites"])
    share = summary.get("coverage")
    covered = f"the merge covers {share or 0:.1%} of the linear weights inside the decoder blocks"
    return [
        *language_notes(summary["suites"]),
        *([unfinished] if unfinished else []),
        *([covered] if share is not None else []),
    ]
