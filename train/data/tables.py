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
import lzma
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path

from merge.common.errors import UserError, first_line
from merge.common.files import counted_from
from train.data.formats import FORMATS, Content, Layout, Row

NO_LAYOUT = Layout()
_COMPRESSIONS = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}
_DAMAGED = (OSError, EOFError, lzma.LZMAError, zlib.error)


def is_file(source: str) -> bool:
    """Whether a source names a file that this reads, rather than a set of ``datasets``."""
    return _format(Path(source)) in FORMATS


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
                f"{', '.join(FORMATS)}, also with {', '.join(_COMPRESSIONS)}"
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
    for ending in (*_COMPRESSIONS, *FORMATS):
        if name.lower().endswith(ending):
            name = name[: -len(ending)]
    return name


def _check_layout(layout: Layout, suffix: str, where: str) -> None:
    for key, names in (
        ("header", layout.header),
        ("lines", layout.lines),
    ):
        formats = [ending for ending, each in FORMATS.items() if each.layout_key == key]
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
    content = Content(_read_bytes(path, where), where, columns, layout)
    return FORMATS[_format(path)].read(content)


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


def _read_dataset(source: str, where: str, split: str, config: str | None) -> list[Row]:
    # Takes a second to import, and most runs read a file.
    import datasets

    try:
        return list(datasets.load_dataset(source, config, split=split))  # pyright: ignore
    except Exception as error:
        # The library raises anything from FileNotFoundError to its own and the hub client's errors.
        raise UserError(
            f"{where}, split {split}: cannot be loaded ({first_line(error)}); give a "
            f"{', '.join(FORMATS)} file that is there, or a name on the hub"
        ) from None
