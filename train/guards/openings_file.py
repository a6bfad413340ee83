"""The file ``openings.json`` of a run folder: how the backbone's refusals open (issue 14)."""

from pathlib import Path
from typing import Any

from merge.common.errors import UserError
from merge.common.files import atomic_write_json, read_json
from train.guards.refusal_margin import RefusalOpenings

OPENINGS_FILE = "openings.json"
"""Its name in the run folder."""
_FORMAT = 1


def write_openings(path: Path, openings: RefusalOpenings, **record: Any) -> None:
    """Write the openings, whole or not at all.

    Args:
        record: more keys, JSON values: ``texts``, the openings as text, for a reader's eye;
            ``backbone``, the identity of the model that they are of.

    Raises:
        UserError: the file cannot be written.
    """
    content = {
        "format": _FORMAT,
        "openings": [list(tokens) for tokens in openings.tokens],
        "coverage": openings.coverage,
        "precision": openings.precision,
    }
    atomic_write_json(path, {**content, **record})


def read_openings(path: Path) -> RefusalOpenings:
    """Read the openings; there may be none, where the backbone's refusals have none in common.

    Raises:
        UserError: the file is missing or unreadable, or holds something else.
    """
    content = read_json(path)
    if content.get("format") != _FORMAT:
        raise UserError(
            f"{path}: format is {content.get('format')}, not {_FORMAT}; delete the file and let "
            "`python -m launch openings RECIPE` write it again"
        )
    try:
        return RefusalOpenings(
            tokens=tuple(_token_ids(tokens) for tokens in content["openings"]),
            coverage=float(content["coverage"]),
            precision=float(content["precision"]),
        )
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{path}: must hold openings (lists of token ids), coverage and precision; delete the "
            "file and let `python -m launch openings RECIPE` write it again"
        ) from None


def _token_ids(values: Any) -> tuple[int, ...]:
    ids = tuple(values)
    if not ids or any(type(each) is not int or each < 0 for each in ids):
        raise ValueError
    return ids
