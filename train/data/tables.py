"""Rows of question-answer pairs and prompts, from any file or ``datasets`` source.

The one reader for training data and suites. A file's format follows from its name: JSON lines
(.jsonl, .ndjson), JSON (.json: a list of objects, an object that holds one such list, or lines),
CSV, TSV, text (.txt: a column "prompt", one a line) and Parquet, each also compressed (.gz, .bz2,
.xz). Lines end at newlines alone: texts may hold Unicode's other line separators and form feeds.
A pattern of files (parts/*.csv) is one source: their rows in the order of the files' names, each
with a column "file", the file's name without its endings.
"""

import bz2
import glob
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from merge.common.errors import UserError, first_line
from merge.common.files import counted_from
from train.data.delimited import read_delimited
from train.data.line_blocks import read_line_blocks

Row = Mapping[str, Any]


class Layout(NamedTuple):
    """What a file does not say about its own columns."""

    header: Sequence[str] = ()
    """The columns of a CSV or TSV whose first line is a row already."""
    lines: Sequence[str] = ()
    """The columns of a text in which each row is a block of lines, one line a column."""


NO_LAYOUT = Layout()
_LINES = {".jsonl", ".ndjson"}
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_FORMATS = (*sorted(_LINES), ".json", *_DELIMITERS, ".txt", ".parquet")
_COMPRESSIONS = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}
_DAMAGED = (OSError, EOFError, lzma.LZMAError, zlib.error)


def is_file(source: str) -> bool:
    """Whether a source names a file that this reads, rather than a set of ``datasets``."""
    return _format(Path(source)) in _FORMATS


def read_table(
    source: str,
    where: str,
    columns: Collection[str],
    split: str,
    config: str | None = None,
    layout: Layout = NO_LAYOUT,
) -> Sequence[Row]:
    """All rows of a source.

    Args:
        source: a file or a pattern of files (``~`` is the home folder), or what
            ``datasets.load_dataset`` takes.
        where: what errors call the source.
        columns: names or paths that the rows are asked for; they tell a row from an object that
            holds the rows, in a JSON file of a single object, and a torn row of a CSV from one
            that is short.
        split, config: of a ``datasets`` source; files have neither.
        layout: the columns of a file that does not name them itself.

    Raises:
        UserError: the source is missing, damaged or malformed, naming the line where there is one.
    """
    path = Path(source).expanduser()
    _check_layout(layout, _format(path), where)
    if not is_file(source):
        if path.is_file():
            raise UserError(
                f"{where}: its format is not known by its name; call it one of "
                f"{', '.join(_FORMATS)}, also with {', '.join(_COMPRESSIONS)}"
            )
        if path.suffix and path.parts[1:] and path.parent.is_dir() and not path.exists():
            # Else a typo in an ending would be looked for on the hub, for half a minute.
            raise UserError(
                f"{where}: there is no such file in the folder {path.parent}; check the path"
                f"{counted_from(path)}"
            )
        return _read_dataset(str(path) if path.is_dir() else source, where, split, config)
    if is_pattern(source):
        return [
            {"file": _name(file), **row}
            for file in _fitting(path, where)
            for row in _read_file(file, f"{where}, file {file.name}", columns, layout)
        ]
    return _read_file(path, where, columns, layout)


def is_pattern(source: str) -> bool:
    """Whether a source names files by a pattern; a file of that very name is no pattern."""
    return glob.has_magic(source) and not Path(source).expanduser().is_file()


def _fitting(pattern: Path, where: str) -> list[Path]:
    rest = str(pattern.relative_to(pattern.anchor))
    files = sorted(path for path in Path(pattern.anchor or ".").glob(rest) if path.is_file())
    if not files:
        raise UserError(
            f"{where}: no file fits this pattern; check the path{counted_from(pattern)}"
        )
    return files


def _name(path: Path) -> str:
    name = path.name
    for ending in (*_COMPRESSIONS, *_FORMATS):
        if name.lower().endswith(ending):
            name = name[: -len(ending)]
    return name


def _check_layout(layout: Layout, suffix: str, where: str) -> None:
    for key, names, formats in (
        ("header", layout.header, tuple(_DELIMITERS)),
        ("lines", layout.lines, (".txt",)),
    ):
        if names and suffix not in formats:
            raise UserError(
                f"{where}: the key {key} says the columns of a {' or '.join(formats)} file alone; "
                "leave it out"
            )
        twice = [name for name in names if names.count(name) > 1 or not name.strip()]
        if twice:
            raise UserError(
                f"{where}: the key {key} names a column '{twice[0]}' "
                "that is empty or there twice; give each a name of its own"
            )


def _read_file(path: Path, where: str, columns: Collection[str], layout: Layout) -> Sequence[Row]:
    data = _read_bytes(path, where)
    suffix = _format(path)
    if suffix == ".parquet":
        return _read_parquet(data, where)
    text = _decode(data, where)
    if layout.lines:
        return read_line_blocks(text, where, layout.lines)
    if suffix == ".txt":
        lines = (line.removesuffix("\r") for line in text.split("\n"))
        return [{"prompt": line} for line in lines if line.strip()]
    if suffix in _DELIMITERS:
        return read_delimited(text, where, _DELIMITERS[suffix], columns, layout.header)
    # A .jsonl file may hold one array all the same.
    is_json = suffix == ".json" or text.lstrip().startswith("[")
    if is_json and (rows := _read_json(text, where, columns)) is not None:
        return rows
    return list(_read_lines(text, where))


def _format(path: Path) -> str:
    """The suffix that says the format, in small letters; a compression's is passed over."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _read_bytes(path: Path, where: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{where}: cannot be read ({error.strerror}); check the path{counted_from(path)}"
        ) from None
    decompress = _COMPRESSIONS.get(path.suffix.lower())
    if decompress is None:
        return data
    try:
        return decompress(data)
    except _DAMAGED as error:
        raise UserError(f"{where}: cannot be decompressed ({error}); fetch it again") from None


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{where}, line {line}: is not UTF-8 text; convert the file") from None


def _read_json(text: str, where: str, columns: Collection[str]) -> list[Row] | None:
    """The rows of one JSON value; None where the text is no single value, but perhaps lines."""
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("["):
            line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
            raise UserError(f"{where}, line {line}: not valid JSON ({error}); fix it") from None
        return None
    if isinstance(value, dict):
        if any(column in value or column.split(".")[0] in value for column in columns):
            return [value]
        lists = [name for name, item in value.items() if _holds_rows(item)]
        if len(lists) != 1:
            raise UserError(
                f"{where}: is one object with the keys {', '.join(value)}, and of these "
                f"{len(lists)} hold a list of rows; give a list of objects, or one a line"
            )
        value = value[lists[0]]
    if not isinstance(value, list):
        raise UserError(f"{where}: is no list of objects; give one, or one object a line")
    for number, row in enumerate(value, start=1):
        if not isinstance(row, dict):
            raise UserError(f"{where}, row {number}: is not a JSON object; fix or remove it")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, whose keys differ: of two answers, none is the right one by itself."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object holds the key '{twice}' twice")
    return found


def _holds_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _read_lines(text: str, where: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{where}, line {number}: not valid JSON ({error}); one object a line"
            ) from None
        if not isinstance(row, dict):
            raise UserError(f"{where}, line {number}: is not a JSON object; one object a line")
        yield row


def _read_parquet(data: bytes, where: str) -> list[Row]:
    import pyarrow.parquet  # a part of a second to import, and most sources are text

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(data))
        if len(set(table.column_names)) < table.num_columns:
            raise ValueError("two of its columns have one name")
        return table.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{where}: is no readable Parquet file ({first_line(error)})") from None


def _read_dataset(source: str, where: str, split: str, config: str | None) -> list[Row]:
    # Takes a second to import, and most runs read a file.
    import datasets

    try:
        return list(datasets.load_dataset(source, config, split=split))  # pyright: ignore
    except Exception as error:
        # The library raises anything from FileNotFoundError to its own and the hub client's errors.
        raise UserError(
            f"{where}, split {split}: cannot be loaded ({first_line(error)}); give a "
            f"{', '.join(_FORMATS)} file that is there, or a name on the hub"
        ) from None
