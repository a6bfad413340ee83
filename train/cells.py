"""What stands in one cell of a row: columns by name or path, and texts that can be used.

A path goes into nested rows by keys and list indices, as in ``messages.0.content``. In a list of
chat turns a role picks its first turn, and at the path's end that turn's text: ``messages.user``.
"""

import math
from collections.abc import Mapping
from typing import Any

from merge.errors import UserError

_ROLES = (("role", "content"), ("from", "value"))
"""The keys of a chat turn's speaker and text: OpenAI's form, and ShareGPT's."""


class MissingColumnError(Exception):
    """A row has no such column; the message says what it has."""


def cell(row: Mapping[str, Any], column: str) -> Any:
    """What stands under a column's name, or else under its path.

    Raises:
        MissingColumnError: nothing does.
    """
    if column in row:
        return row[column]
    value: Any = row
    parts = column.split(".")
    while parts:
        value, taken = _step(value, parts, column)
        parts = parts[taken:]
    return value


def _step(value: Any, parts: list[str], column: str) -> tuple[Any, int]:
    """One step into ``value``, and how many parts of the path it takes."""
    if isinstance(value, Mapping):
        # A key may hold dots itself: the longest that fits.
        for taken in range(len(parts), 0, -1):
            if (key := ".".join(parts[:taken])) in value:
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


def _turn(turns: list[Any], role: str, column: str, at_end: bool) -> Any:
    roles: dict[str, None] = {}
    for turn in turns:
        for speaker, said in _ROLES:
            if isinstance(turn, Mapping) and speaker in turn and said in turn:
                if turn[speaker] == role:
                    return turn[said] if at_end else turn
                roles[str(turn[speaker])] = None
    have = f"roles {', '.join(roles)}" if roles else "no chat turns"
    raise MissingColumnError(f"no column '{column}': the list has {have}")


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


def usable(text: str, what: str) -> str:
    """The text itself, once it is seen to be one.

    Raises:
        UserError: it holds half of a surrogate pair, which is no character, or a NUL.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{what} holds a lone surrogate (U+{ord(text[error.start]):04X}), half of a "
            "character; replace it"
        ) from None
    if "\0" in text:
        raise UserError(f"{what} holds a NUL character; remove it, or fetch the file again")
    return text
