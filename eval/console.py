"""What a command prints at its end: lines left whole, and tables that break no word.

A table too narrow for the longest words of its columns is written row by row instead. Where
standard output is no terminal, and COLUMNS is not set, a table is as wide as it needs to be.
"""

import os

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_WIDE = 100_000
"""Characters that no table needs."""


def show(*shown: RenderableType, style: str | None = None) -> None:
    """Print tables, groups of them, and lines.

    Args:
        style: of the lines, which are plain text.
    """
    for each in shown:
        if isinstance(each, Group):
            show(*each.renderables, style=style)
        elif isinstance(each, Table):
            _show_table(each)
        elif isinstance(each, str):
            console = Console(soft_wrap=True)
            console.print(each, style=style, markup=False, highlight=False)
        else:
            Console(soft_wrap=True).print(each, highlight=False)


def _show_table(table: Table) -> None:
    console = Console()
    wide = Console(width=_WIDE)
    words, lines = _widths(table, wide)
    frame = Measurement.get(wide, wide.options, table).maximum - sum(lines)
    room = console.width
    if not console.is_terminal and "COLUMNS" not in os.environ:
        room = sum(lines) + frame
    if sum(words) + frame > room:
        _show_rows(table)
        return
    more = [line - word for line, word in zip(lines, words, strict=True)]
    share = min(1.0, (room - frame - sum(words)) / max(sum(more), 1))
    for column, word, extra in zip(table.columns, words, more, strict=True):
        column.width = word + int(extra * share)
    Console(width=room).print(table, highlight=False)


def _widths(table: Table, wide: Console) -> tuple[list[int], list[int]]:
    """Widths of the longest word and of the longest line of every column."""
    words, lines = [], []
    for column in table.columns:
        cells = [*([column.header] if table.show_header else []), *column.cells]
        measured = [Measurement.get(wide, wide.options, cell) for cell in cells]
        least = column.min_width or 1
        lines.append(max([least, *(each.maximum for each in measured)]))
        word = max([least, *(each.minimum for each in measured)])
        words.append(lines[-1] if column.no_wrap else word)
    return words, lines


def _show_rows(table: Table) -> None:
    """A block a row, with a line for each cell."""
    console = Console(soft_wrap=True)
    heads = [_plain(column.header) for column in table.columns]
    if table.title:
        console.print(table.title, style="italic", markup=False, highlight=False)
    columns = [map(_plain, column.cells) for column in table.columns]
    for cells in zip(*columns, strict=True):
        lines = [
            f"{head}: {cell}" if head else cell for head, cell in zip(heads, cells, strict=True)
        ]
        console.print(lines[0], style="bold", markup=False, highlight=False)
        for line in lines[1:]:
            console.print(f"  {line}", markup=False, highlight=False)
    if table.caption:
        console.print(table.caption, highlight=False)


def _plain(cell: RenderableType) -> str:
    """A cell's text on one line."""
    text = cell if isinstance(cell, Text) else Text.from_markup(str(cell))
    return " ".join(text.plain.split())
