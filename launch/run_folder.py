"""A run folder: whose it is, and where in it things are."""

from pathlib import Path

import yaml

from launch.recipe import Recipe
from merge.errors import UserError
from merge.files import atomic_write_text, make_directory

RECIPE = "recipe.yaml"
HARVEST = "harvest"
"""The folder of D_h where ``launch harvest`` makes it."""
PAIRS = "pairs.jsonl"
FALSE_REFUSALS = "false_refusals.jsonl"
"""Of the same folder: what the over-safety model answers to questions refused falsely."""
ALIGNMENT = "alignment"
"""The folder of a backbone that the run makes itself of another model."""

_FREE_SECTIONS = {"eval", "cluster", "keep_intermediates", "continual", "ablate"}
"""What may change between two runs in one folder: it changes neither patch nor merge. Of continual
alignment each stage has a folder, and a recipe, of its own: stages may be added at any time."""


def claim_folder(recipe: Recipe) -> Path:
    """Write the run folder's recipe, or see that the folder belongs to this recipe.

    A report of another evaluation is deleted.

    Returns:
        The resolved recipe's file.

    Raises:
        UserError: the folder holds a run of another recipe, or cannot be written.
    """
    make_directory(recipe.output)
    values = recipe.model_dump(mode="json", exclude_none=True)
    file = recipe.output / RECIPE
    if file.is_file():
        before = yaml.safe_load(file.read_text(encoding="utf-8"))
        changed = sorted(
            key for key in before.keys() | values.keys() if before.get(key) != values.get(key)
        )
        for key in changed:
            if key not in _FREE_SECTIONS:
                raise UserError(
                    f"{recipe.output}: holds a run with another '{key}'; delete the folder, "
                    "or choose another with output=FOLDER"
                )
        if "eval" in changed:
            report_file(recipe.output).unlink(missing_ok=True)
    atomic_write_text(file, yaml.safe_dump(values, sort_keys=False))
    return file


def report_file(folder: Path) -> Path:
    """The numbers of the finished report, the last file that a run writes."""
    return folder / "report" / "report.json"
