"""The over-safety patch that is trained first, on D_h, where false refusals are harvested.

With it the backbone answers what it refuses falsely; the patch of the run is trained on these
answers. It lies in a private folder, a small run folder of its own, that goes when they are there.
"""

import shutil
from pathlib import Path

from launch.recipe import Recipe
from launch.run.folder import FIRST, claim_folder
from merge.common.files import PRIVATE_FOLDER, atomic_write_text, make_directory
from merge.io.patch_directory import Role
from train.guards.openings_file import OPENINGS_FILE

FIRST_ROLE: Role = "over_safety"


def first_patch(output: Path) -> Path:
    """The directory of the patch in a run folder."""
    return output / FIRST / FIRST_ROLE


def prepare_first(recipe: Recipe) -> None:
    """Make its private run folder, with the refusals' openings where the run has them.

    Raises:
        UserError: it cannot be written.
    """
    assert recipe.harvest is not None
    folder = recipe.output / FIRST
    make_directory(folder, PRIVATE_FOLDER)
    # A model of one whole patch ranks nothing.
    unranked = {"samples": 1, "data": type(recipe.importance.data)()}
    changes = {
        "output": folder,
        "over_safety": recipe.harvest.first_training(recipe.over_safety),
        "importance": recipe.importance.model_copy(update=unranked),
    }
    claim_folder(recipe.model_copy(update=changes))
    openings = recipe.output / OPENINGS_FILE
    if openings.is_file():
        atomic_write_text(folder / OPENINGS_FILE, openings.read_text(encoding="utf-8"))


def delete_first(recipe: Recipe) -> None:
    """Delete it with all that is in its folder."""
    shutil.rmtree(recipe.output / FIRST, ignore_errors=True)
