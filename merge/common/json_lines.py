"""JSON lines that are appended to, whole batches at a time, and survive an interruption."""

import json
import logging
import os
from collections.abc import Iterable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from merge.common.errors import UserError
from merge.common.files import atomic_write_text
from merge.common.texts import usable

logger = logging.getLogger(__name__)


class LineStore:
    """Results by key, as JSON lines; every ``add`` is on disk when it returns.

    Raises:
        UserError: the file cannot be read or written, or has a broken line that is not its last.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        records = read_lines(path)
        broken = [record for record in records if not {"key", "value"} <= record.keys()]
        if broken:
            raise UserError(f"{path}: a line has no key or value; delete the file and run again")
        self.values: dict[str, Any] = {record["key"]: record["value"] for record in records}
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            # A torn last line: what is added must not be glued to it.
            atomic_write_text(path, "".join(f"{as_line(record)}\n" for record in records))

    def add(self, values: Mapping[str, Any]) -> None:
        """Keep more results."""
        records = ({"key": key, "value": value} for key, value in values.items())
        with open_lines(self._path) as file:
            append_lines(file, records)
        self.values.update(values)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines; none where there is no file. A torn last line is left out.

    Raises:
        UserError: the file cannot be read, a line before the last is broken, or a text in it is
            none that can be written.
    """
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError):
            if number == len(lines):  # no newline after it: the write was cut short
                logger.warning("%s: the torn last line is dropped and asked again", path)
                continue
            raise UserError(
                f"{path} line {number}: not a JSON object; delete that line and run again"
            ) from None
        if b"\\u" in line:
            usable(as_line(record), f"{path} line {number}:")
        records.append(record)
    return records


def as_line(record: Mapping[str, Any]) -> str:
    """A record as one line, without its newline."""
    return json.dumps(record, ensure_ascii=False)


def open_lines(path: Path) -> FileIO:
    """Open a file to append to; closing it writes nothing, so it cannot fail on a full disk."""
    try:
        return path.open("ab", buffering=0)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose --out") from None


def append_lines(file: FileIO, records: Iterable[Mapping[str, Any]]) -> None:
    """Write records and wait until they are on disk.

    Raises:
        UserError: the disk is full or cannot be written.
    """
    data = memoryview("".join(f"{as_line(record)}\n" for record in records).encode())
    try:
        while data:
            data = data[file.write(data) :]
        os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"{file.name}: cannot be written ({error.strerror}); free space and run again: "
            "finished work is kept"
        ) from None


def drop_torn_line(file: Path) -> None:
    """Take off what a full disk or the fall of a machine left of the last line of a file."""
    with file.open("rb+") as lines:
        size = end = lines.seek(0, os.SEEK_END)
        while end > 0:
            lines.seek(end - 1)
            if lines.read(1) == b"\n":
                break
            end -= 1
        if end < size:
            lines.truncate(end)
