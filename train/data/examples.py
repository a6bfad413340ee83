"""Question-answer pairs of a source, its rows chosen, its columns read as texts."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import Any

from merge.common.errors import UserError
from merge.common.texts import usable
from train.chat.example import Example
from train.data.cells import MissingColumnError, as_text, cell
from train.data.tables import read_table
from train.recipe import DataSettings, row_range


def read_examples(settings: DataSettings) -> list[Example]:
    """Read the selected rows: ``rows`` first, then ``categories``, then ``limit``.

    Raises:
        UserError: missing or malformed file, missing column, a question without an answer, or
            nothing left, naming source and row.
    """
    where = f"data {settings.path}"
    columns = (settings.question, settings.answer)
    rows = read_table(settings.path, where, columns, settings.split, settings.config)
    if not rows:
        raise UserError(f"{where}: is empty; give a file with at least one row")
    examples = []
    for number in row_range(settings.rows, len(rows)):
        example = _example(rows[number], f"{where}, row {number + 1}", settings)
        if _is_wanted(example, settings.categories):
            examples.append(example)
        if len(examples) == settings.limit:
            break
    if not examples:
        raise UserError(
            f"{where}: no row is left by rows '{settings.rows}' and categories "
            f"{list(settings.categories)}; widen data.rows or data.categories"
        )
    return examples


def _is_wanted(example: Example, patterns: Sequence[str]) -> bool:
    """Whether a category of the example fits one of the patterns; without patterns always."""
    return not patterns or any(
        fnmatchcase(category, pattern) for category in example.categories for pattern in patterns
    )


def data_hash(examples: Iterable[Example]) -> str:
    """SHA-256 over the examples in order, as hexadecimal."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps(asdict(example), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _example(row: Mapping[str, Any], place: str, settings: DataSettings) -> Example:
    texts = []
    for role, column in (("question", settings.question), ("answer", settings.answer)):
        what = f"{place}: the {role} (column '{column}')"
        try:
            text = as_text(cell(row, column), what)
        except MissingColumnError as error:
            raise UserError(f"{place}: has {error}; name the right one as data.{role}") from None
        if not text.strip():
            raise UserError(f"{what} is empty; fill or remove it")
        texts.append(text)
    try:
        categories = _categories(cell(row, settings.category))
    except MissingColumnError:
        categories = ()
    what = f"{place}: the category (column '{settings.category}')"
    return Example(*texts, categories=tuple(usable(name, what) for name in categories))


def _categories(value: Any) -> tuple[str, ...]:
    """One name, several, or BeaverTails' form: a flag for each category."""
    if value is None:
        return ()
    if isinstance(value, Mapping):
        return tuple(str(name) for name, applies in value.items() if applies)
    if isinstance(value, list | tuple):
        return tuple(str(name) for name in value)
    return (str(value),)
