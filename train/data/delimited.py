"""Rows of a CSV or TSV text, each field under its column's name; what is torn is refused.

The csv module reads on where a text is broken: a quote that nothing closes swallows the rows after
it, a comma too many cuts an answer. Either would be trained or asked without a word.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from merge.common.errors import UserError

_LONGEST_FIELD = 2**31 - 1
"""Bytes; the csv module's own limit of 131,072 is shorter than a long answer."""
_NAMES = {",": "a comma", "\t": "a tab"}
_NEWLINE = re.compile(r"\r\n?|\n")


def read_delimited(
    text: str, where: str, delimiter: str, columns: Collection[str], names: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """All rows below the header; a field that a row lacks at its end is None.

    Args:
        where: what errors call the source.
        columns: that every row must have.
        names: of the columns, where the text has no header.

    Raises:
        UserError: a column's name stands twice, a row has too many fields or lacks one of
            ``columns``, or a quote is open, naming line and row.
    """
    records = _records(text, where, delimiter)
    header = list(names)
    if names:
        records = _headless(records, where, names)
    else:
        _, header = next(records, (0, []))
    twice = [name for name, count in Counter(map(str.strip, header)).items() if name and count > 1]
    if twice:
        raise UserError(f"{where}: the header names column '{twice[0]}' twice; rename one")
    rows = []
    for number, (line, fields) in enumerate(records, start=1):
        missing = {name.strip() for name in header[len(fields) :]} & {*columns}
        if missing or any(field.strip() for field in fields[len(header) :]):
            raise UserError(
                f"{where}, row {number} (line {line}): has {len(fields)} fields, and the header "
                f"{len(header)}; put a field that holds {_NAMES[delimiter]} or a newline in double "
                "quotes"
            )
        padded = fields + [None] * (len(header) - len(fields))
        rows.append(dict(zip(header, padded, strict=False)))
    return rows


def _headless(
    records: Iterator[tuple[int, list[Any]]], where: str, names: Sequence[str]
) -> Iterator[tuple[int, list[Any]]]:
    """The records, of which the first shows whether the names are those of its fields."""
    for number, (line, fields) in enumerate(records):
        if number == 0 and len(fields) != len(names):
            raise UserError(
                f"{where}, row 1 (line {line}): has {len(fields)} fields, and the key header names "
                f"{len(names)}; name every column"
            )
        if number == 0 and [field.strip().lower() for field in fields] == [
            name.strip().lower() for name in names
        ]:
            raise UserError(f"{where}: its first line is a header; leave the key header out")
        yield line, fields


def _records(text: str, where: str, delimiter: str) -> Iterator[tuple[int, list[Any]]]:
    """The first line of each record that is not empty, and its fields."""
    csv.field_size_limit(_LONGEST_FIELD)
    lines = list(io.StringIO(text, newline=""))
    # Only an open quote takes the empty line after the last one into its record.
    reader = csv.reader([*lines, ""], delimiter=delimiter)
    begin = 0
    for fields in reader:
        if begin == len(lines):
            return
        end = reader.line_num
        if end - begin > 1:
            record = "".join(lines[begin:end])
            place = _open_quote(record, delimiter)
            if place is not None:
                line = begin + 1 + len(_NEWLINE.findall(record, 0, place))
                raise UserError(
                    f"{where}, line {line}: the quote that opens here, "
                    f"{' '.join(record[place : place + 20].split())}, is not closed where its "
                    "field ends; close it, or put the whole field in double quotes and write "
                    "each quote inside it twice"
                )
        if fields:
            yield begin + 1, fields
        begin = end


def _open_quote(record: str, delimiter: str) -> int | None:
    """Where the quote stands that begins a field and is closed nowhere, or amid a text."""
    rest = rf"[^{re.escape(delimiter)}\r\n]*"
    # In quotes, plain, or, on one line, such as "so" he said, which is read as it is.
    field = re.compile(
        rf'(?:"[^"]*(?:""[^"]*)*" *|(?!"){rest}|"[^"\r\n]*"{rest})'
        rf"(?:{re.escape(delimiter)}|{_NEWLINE.pattern}|\Z)"
    )
    place = 0
    while place < len(record):
        match = field.match(record, place)
        if match is None:
            return place
        place = match.end()
    return None
