"""Rows of a text that holds each row as a block of lines, one column a line, as HellaSwag's."""

from collections.abc import Sequence

from merge.common.errors import UserError


def read_line_blocks(text: str, where: str, names: Sequence[str]) -> list[dict[str, str]]:
    """All rows; between two blocks there may be empty lines.

    Args:
        where: what errors call the source.
        names: of the columns, in the order of a block's lines.

    Raises:
        UserError: a block is torn: one of its lines is empty, or the text ends in it.
    """
    rows: list[dict[str, str]] = []
    block: list[str] = []
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        line = line.removesuffix("\r")
        if line.strip():
            block.append(line)
        elif block:
            raise UserError(
                f"{where}, row {len(rows) + 1} (line {number}): has only {len(block)} of the "
                f"{len(names)} lines {', '.join(names)}; fix the file, or the key lines"
            )
        if len(block) == len(names):
            rows.append(dict(zip(names, block, strict=True)))
            block = []
    return rows
