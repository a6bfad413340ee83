"""Published numbers of other people's models, which stand in a report's table as a reference.

Without PyTorch, so that a recipe is checked at once.
"""

from pathlib import Path

from pydantic import Field

from eval.suites.suite import AskedAxis
from merge.common.errors import UserError
from merge.common.settings import Settings, parse_settings
from merge.common.yaml_file import read_keys


class Published(Settings):
    """What a paper says of one backbone."""

    title: str
    """What the table calls the backbone."""
    source: str
    """Where the numbers stand, and who quotes them."""
    sets: dict[AskedAxis, tuple[str, ...]] = Field(default_factory=dict)
    """By axis its sets of prompts, so that one that a run does not ask stands in its place."""
    rows: dict[str, dict[str, float]] = Field(default_factory=dict)
    """By method (as reports call it: ``backbone``, ``self_cd``, ``safepatching``, ...) and column
    (a suite row's name, ``utility average``, ``MT-Bench`` or ``ATGR``) what is printed: rates in
    per cent, ratings from 1 to 10, times as multiples of the backbone's."""


def load_published(file: Path, backbone: str) -> Published:
    """Read the published numbers of one backbone.

    Args:
        file: a YAML file with an entry a backbone.

    Raises:
        UserError: the file is missing or malformed, or has no entry of that name.
    """
    entries = read_keys(file, "published numbers", "an entry a backbone")
    if backbone not in entries:
        raise UserError(
            f"published numbers {file}: has no entry '{backbone}'; choose one of "
            f"{', '.join(map(str, entries))}, or add it"
        )
    entry, where = entries[backbone], f"published numbers {file}, {backbone}"
    if not isinstance(entry, dict):
        raise UserError(f"{where}: must hold title, source and rows")
    return parse_settings(Published, entry, where)
