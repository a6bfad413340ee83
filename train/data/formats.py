"""Files of rows: one table says by the ending of a file's name what reads it."""

import io
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from merge.common.errors import UserError, first_line
from train.data.delimited import read_delimited
from train.data.line_blocks import read_line_blocks

Row = Mapping[str, Any]


class Layout(NamedTuple):
    """What a file does not say about its own columns."""

    header: Sequence[str] = ()
    """The columns of a CSV or TSV whose first line is a row already."""
    lines: Sequence[str] = ()
    """The columns of a text in which each row is a block of lines, one line a column."""


class Content(NamedTuple):
    """A file that is to be read."""

    data: bytes
    """What it holds, decompressed."""
    where: str
    """What errors call it."""
    columns: Collection[str]
    """Names or paths that the rows are asked for."""
    layout: Layout

    def text(self) -> str:
        """The file's text, without a byte order mark.

        Raises:
            UserError: it is not UTF-8.
        """
        try:
            return self.data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = self.data.count(b"\n", 0, error.start) + 1
            raise UserError(
                f"{self.where}, line {line}: is not UTF-8 text; convert the file"
            ) from None


class Format(NamedTuple):
    """How a kind of files is read."""

    read: Callable[[Content], Sequence[Row]]
    """Gives all rows; raises a ``UserError`` that names the line or row where the file is wrong."""
    layout_key: str | None = None
    """The key of ``Layout`` that files of this kind may need: header or lines."""


def _read_text(content: Content) -> Sequence[Row]:
    if content.layout.lines:
        return read_line_blocks(content.text(), content.where, content.layout.lines)
    lines = (line.removesuffix("\r") for line in content.text().split("\n"))
    return [{"prompt": line} for line in lines if line.strip()]


def _read_delimited(content: Content, delimiter: str) -> Sequence[Row]:
    text, header = content.text(), content.layout.header
    return read_delimited(text, content.where, delimiter, content.columns, header)


def _read_json(content: Content, one_value: bool) -> Sequence[Row]:
    """Rows of JSON; a file of lines may hold one array all the same, and one of a value lines."""
    text, where = content.text(), content.where
    if one_value or text.lstrip().startswith("["):
        rows = _read_value(text, where, content.columns)
        if rows is not None:
            return rows
    return list(_read_lines(text, where))


def _read_value(text: str, where: str, columns: Collection[str]) -> list[Row] | None:
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
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object holds the key '{twice}' twice")
    return content


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


def _read_parquet(content: Content) -> Sequence[Row]:
    import pyarrow.parquet  # a part of a second to import, and most sources are text

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(content.data))
        if len(set(table.column_names)) < table.num_columns:
            raise ValueError("two of its columns have one name")
        return table.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"{content.where}: is no readable Parquet file ({first_line(error)})"
        ) from None


FORMATS: dict[str, Format] = {
    ".jsonl": Format(partial(_read_json, one_value=False)),
    ".ndjson": Format(partial(_read_json, one_value=False)),
    ".json": Format(partial(_read_json, one_value=True)),
    ".csv": Format(partial(_read_delimited, delimiter=","), "header"),
    ".tsv": Format(partial(_read_delimited, delimiter="\t"), "header"),
    ".txt": Format(_read_text, "lines"),
    ".parquet": Format(_read_parquet),
}
"""By the ending in small letters."""
