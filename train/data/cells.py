"""What stands in one cell of a row: columns by name or path, and texts that can be used.

A path goes into nested rows by keys and list indices, as in ``messages.0.content``, also where they
stand as JSON in a text. In a list of chat turns a role picks its first turn, and at the path's end
that turn's text: ``messages.user``; ``messages.assistant`` is the first answer after the question.
"""

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Any

from merge.common.errors import UserError
from merge.common.texts import usable

_ROLES = (("role", "content"), ("from", "value"))
"""The keys of a chat turn's speaker and text: OpenAI's form, and ShareGPT's."""
_ASKING = {"user", "human", "prompter"}
_BEFORE = {"system", "developer"} | _ASKING
"""Roles whose first turn counts wherever it stands; a greeting before the question is no answer."""


_TRUTH = {"false": Decimal(0), "true": Decimal(1)}
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3})?")
"""As JSON writes one: a text with zeros before it, as 007, is a name."""


class MissingColumnError(Exception):
    """A row has no such column; the message says what it has."""


def cell(row: Mapping[str, Any], column: str) -> Any:
    """What stands under a column's name, or else under its path.

    Raises:
        MissingColumnError: nothing does.
    """
    if (key := _key(row, column)) is not None:
        return row[key]
    value: Any = row
    parts = column.split(".")
    while parts:
        value, taken = _step(value, parts, column)
        parts = parts[taken:]
    return value


def _step(value: Any, parts: list[str], column: str) -> tuple[Any, int]:
    """One step into ``value``, and how many parts of the path it takes."""
    value = unfolded(value)
    if isinstance(value, Mapping):
        # A key may hold dots itself: the longest that fits.
        for taken in range(len(parts), 0, -1):
            if (key := _key(value, ".".join(parts[:taken]))) is not None:
                return value[key], taken
        raise MissingColumnError(f"no column '{column}' (it has {', '.join(map(str, value))})")
    if isinstance(value, list):
        if parts[0].removeprefix("-").isdecimal():
            index = int(parts[0])
            if -len(value) <= index < len(value):
                return value[index], 1
            raise MissingColumnError(
                f"no column '{column}': the list has {len(value)} items, counted from 0"
            )
        return _turn(value, parts[0], column, at_end=len(parts) == 1), 1
    raise MissingColumnError(f"no column '{column}': nothing is nested at '{parts[0]}'")


def _key(row: Mapping[str, Any], name: str) -> str | None:
    """The key of this name, or else one with spaces around it, as headers of CSV files have."""
    if name in row:
        return name
    return next((key for key in row if isinstance(key, str) and key.strip() == name), None)


def unfolded(value: Any) -> Any:
    """A list or an object that stands as JSON in a text, as in a CSV; else the value itself."""
    if isinstance(value, str) and value.lstrip()[:1] in {"[", "{"}:
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def _turn(turns: list[Any], role: str, column: str, at_end: bool) -> Any:
    """The first turn of a role; of one that answers, after the first that asks."""
    said_by = [
        (str(turn[speaker]), turn[said] if at_end else turn)
        for turn in turns
        for speaker, said in _ROLES
        if isinstance(turn, Mapping) and speaker in turn and said in turn
    ]
    roles = [speaker for speaker, _ in said_by]
    asked = next((place for place, name in enumerate(roles) if name in _ASKING), 0)
    begin = 0 if role in _BEFORE else asked
    if role in roles[begin:]:
        return said_by[roles.index(role, begin)][1]
    have = f"roles {', '.join(dict.fromkeys(roles))}" if roles else "no chat turns"
    late = f", and none of {role} after {roles[asked]}" if role in roles else ""
    raise MissingColumnError(f"no column '{column}': the list has {have}{late}")


def same_value(given: Any, wanted: Any) -> bool:
    """Whether two cells hold the same, however each is written: 1, 1.0, "1" and true are one.

    Two texts are the same only letter by letter.
    """
    if str(given) == str(wanted):
        return True
    if isinstance(given, str) and isinstance(wanted, str):
        return False
    values = [_TRUTH.get(str(value).strip().lower(), as_number(value)) for value in (given, wanted)]
    return values[0] is not None and values[0] == values[1]


def as_number(value: Any) -> Decimal | None:
    """The value of a number, also written as a text; None of anything else."""
    text = str(value).strip()
    return Decimal(text) if _NUMBER.fullmatch(text) else None


def as_text(value: Any, what: str) -> str:
    """A cell as text: numbers and truth values as JSON writes them, None as nothing.

    The text parts of a chat turn's content come one after the other.

    Args:
        what: source, row and column, named in errors.

    Raises:
        UserError: it is a list, an object or bytes, or holds what no tokenizer reads.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list) and value and all(map(_is_text_part, value)):
        return usable("".join(part["text"] for part in value), what)
    if isinstance(value, list | tuple | Mapping | bytes):
        kind = "an object" if isinstance(value, Mapping) else f"a {type(value).__name__}"
        raise UserError(
            f"{what} holds {kind}, not a text; name what is in it by a path, such as "
            "messages.0.content or messages.user"
        )
    return usable(str(value), what)


def _is_text_part(part: Any) -> bool:
    return (
        isinstance(part, Mapping)
        and part.get("type") == "text"
        and isinstance(part.get("text"), str)
    )
