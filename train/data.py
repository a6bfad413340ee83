"""Question-answer pairs from JSON lines, CSV, or the ``datasets`` library."""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from merge.errors import UserError
from train.recipe import DataSettings, row_range

_FILE_SUFFIXES = (".jsonl", ".json", ".csv")


@dataclass(frozen=True)
class Example:
    """One question with the answer that is learned or unlearned."""

    question: str
    answer: str
    categories: tuple[str, ...] = ()


def read_examples(settings: DataSettings) -> list[Example]:
    """Read the selected rows: ``rows`` first, then ``categories``, then ``limit``.

    Raises:
        UserError: missing or malformed file, missing column, a question without an answer, or
            nothing left, naming source and row.
    """
    rows = _read_rows(settings)
    if not rows:
        raise UserError(f"data {settings.path}: is empty; give a file with at least one row")
    examples = []
    for number in row_range(settings.rows, len(rows)):
        example = _example(rows[number], f"data {settings.path}, row {number + 1}", settings)
        if _is_wanted(example, settings.categories):
            examples.append(example)
        if len(examples) == settings.limit:
            break
    if not examples:
        raise UserError(
            f"data {settings.path}: no row is left by rows '{settings.rows}' and categories "
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
        if column not in row:
            raise UserError(
                f"{place}: has no column '{column}' (it has {', '.join(map(str, row))}); "
                f"name the right one as data.{role}"
            )
        text = row[column]
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{place}: the {role} (column '{column}') is empty; fill or remove it")
        texts.append(text)
    return Example(*texts, categories=_categories(row.get(settings.category)))


def _categories(value: Any) -> tuple[str, ...]:
    """One name, several, or BeaverTails' form: a flag for each category."""
    if value is None:
        return ()
    if isinstance(value, Mapping):
        return tuple(str(name) for name, applies in value.items() if applies)
    if isinstance(value, list | tuple):
        return tuple(str(name) for name in value)
    return (str(value),)


def _read_rows(settings: DataSettings) -> list[Mapping[str, Any]]:
    path = Path(settings.path)
    if path.suffix in _FILE_SUFFIXES:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise UserError(f"data {path}: cannot be read ({error.strerror})") from None
        except UnicodeDecodeError:
            raise UserError(f"data {path}: is not UTF-8 text; convert it") from None
        if path.suffix == ".csv":
            return list(csv.DictReader(io.StringIO(text, newline="")))
        return list(_json_lines(text, path))
    return _load_dataset(settings)


def _json_lines(text: str, path: Path) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise UserError(f"data {path}, line {number}: is not a JSON object; one row per line")
        yield row


def _load_dataset(settings: DataSettings) -> list[Mapping[str, Any]]:
    # Takes a second to import, and most runs read a file.
    import datasets

    try:
        source = datasets.load_dataset(settings.path, split=settings.split)
    except Exception as error:
        # The library raises anything from FileNotFoundError to its own and the hub client's errors.
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"data {settings.path}, split {settings.split}: cannot be loaded ({reason}); give a "
            f"{', '.join(_FILE_SUFFIXES)} file or a name on the hub"
        ) from None
    return list(source)  # pyright: ignore[reportArgumentType, reportReturnType]
