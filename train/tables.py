"""Rows of question-answer pairs and prompts, from any file or ``datasets`` source.

The one reader for training data and suites. A file's format follows from its name: JSON lines
(.jsonl, .ndjson), JSON (.json: a list of objects, an object that holds one such list, or lines),
CSV, TSV, text (.txt: a column "prompt", one a line) and Parquet, each also compressed (.gz, .bz2,
.xz). Lines end at newlines alone: texts may hold Unicode's other line separators and form feeds.
"""

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from merge.errors import UserError
from train.delimited import read_delimited

Row = Mapping[str, Any]

_LINES = {".jsonl", ".ndjson"}
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_FORMATS = (*sorted(_LINES), ".json", *_DELIMITERS, ".txt", ".parquet")
_COMPRESSIONS = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}
_DAMAGED = (OSError, EOFError, lzma.LZMAError, zlib.error)


def is_file(source: str) -> bool:
    """Whether a source names a file that this reads, rather than a set of ``datasets``."""
    return _format(Path(source)) in _FORMATS


def read_table(
    source: str, where: str, columns: Collection[str], split: str, config: str | None = None
) -> Sequence[Row]:
    """All rows of a source.

    Args:
        source: a file (``~`` is the home folder), or what ``datasets.load_dataset`` takes.
        where: what errors call the source.
        columns: names or paths that the rows are asked for; they tell a row from an object that
            holds the rows, in a JSON file of a single object, and a torn row of a CSV from one
            that is short.
        split, config: of a ``datasets`` source; files have neither.

    Raises:
        UserError: the source is missing, damaged or malformed, naming the line where there is one.
    """
    path = Path(source).expanduser()
    if not is_file(source):
        if path.is_file():
            raise UserError(
                f"{where}: its format is not known by its name; call it one of "
                f"{', '.join(_FORMATS)}, also with {', '.join(_COMPRESSIONS)}"
            )
        return _read_dataset(str(path) if path.is_dir() else source, where, split, config)
    data = _read_bytes(path, where)
    suffix = _format(path)
    if suffix == ".parquet":
        return _read_parquet(data, where)
    text = _decode(data, where)
    if suffix == ".txt":
        lines = (line.removesuffix("\r") for line in text.split("\n"))
        return [{"prompt": line} for line in lines if line.strip()]
    if suffix in _DELIMITERS:
        return read_delimited(text, where, _DELIMITERS[suffix], columns)
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
        raise UserError(f"{where}: cannot be read ({error.strerror}); check the path") from None
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
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{where}: is no readable Parquet file ({reason})") from None


def _read_dataset(source: str, where: str, split: str, config: str | None) -> list[Row]:
    # Takes a second to import, and most runs read a file.
    import datasets

    try:
        return list(datasets.load_dataset(source, config, split=split))  # pyright: ignore
    except Exception as error:
        # The library raises anything from FileNotFoundError to its own and the hub client's errors.
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"{where}, split {split}: cannot be loaded ({reason}); give a {', '.join(_FORMATS)} "
            "file that is there, or a name on the hub"
        ) from None
