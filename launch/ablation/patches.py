"""The patches that an ablation needs: those of the run, and one of each baseline.

What the run has deleted is trained again, to the same bits. All of it lies in one private folder,
because the over-safety patch is a jailbreak.
"""

import logging
import shutil
from pathlib import Path

from launch.recipe import Recipe
from launch.run.folder import ABLATION, RECIPE, claim_folder, is_merged
from launch.run.training import train_patch
from launch.run.variant import WholePatch, patch_of_run
from launch.run.variant_list import baselines
from merge.common.files import PRIVATE_FOLDER, atomic_write_text, make_directory
from train.guards.openings_file import OPENINGS_FILE
from train.recipe import ROLES

logger = logging.getLogger(__name__)

WORK = f"{ABLATION}/work"
"""The private folder, in that of the run."""


def patches_to_train(recipe: Recipe) -> list[WholePatch]:
    """The patches that an ablation trains: of its baselines, and the run's own if deleted.

    Raises:
        UserError: a baseline's training has wrong settings.
    """
    baseline_patches = [row.model for row in baselines(recipe) if isinstance(row.model, WholePatch)]
    # A baseline may be the run's own safety patch.
    missing = {patch.name: patch for patch in baseline_patches if patch.name not in ROLES}
    if is_merged(recipe.output):
        missing |= {
            role: patch_of_run(recipe, role)
            for role in ROLES
            if not (recipe.output / role / "patch.json").is_file()
        }
    return list(missing.values())


def prepare(recipe: Recipe, patch: WholePatch) -> Path:
    """Make the run folder in which a patch is trained; returns its recipe's file.

    Raises:
        UserError: it cannot be written, or holds a training by other settings.
    """
    work = make_private_folder(recipe)
    changes = {"output": work / patch.name, patch.role: patch.training}
    if patch.name not in ROLES:
        # A model of one whole patch ranks nothing.
        unranked = recipe.importance.model_copy(update={"samples": 1})
        changes |= {"importance": unranked, "harmless": patch.harmless}
    file = claim_folder(recipe.model_copy(update=changes))
    hand_over_openings(recipe.output)
    return file


def make_private_folder(recipe: Recipe) -> Path:
    """The folder that nobody else may read, in which patches are trained."""
    work = recipe.output / WORK
    make_directory(work, PRIVATE_FOLDER)
    return work


def hand_over_openings(run: Path) -> None:
    """Give the refusals' openings that a run has learned to the trainings of its ablation.

    The guard of the refusal margin looks for them beside the patch; the backbone is the same.
    """
    openings = run / OPENINGS_FILE
    if openings.is_file():
        for recipe in (run / WORK).glob(f"*/{RECIPE}"):
            text = openings.read_text(encoding="utf-8")
            atomic_write_text(recipe.with_name(OPENINGS_FILE), text)


class AblationPatches:
    """Finds or trains patches."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._work = recipe.output / WORK

    def directory(self, patch: WholePatch) -> Path:
        """The patch's directory; it is trained if there is none yet.

        Raises:
            UserError: it cannot be trained.
            StoppedOnRequestError: a signal asked for it.
        """
        of_run = self._recipe.output / patch.name
        if patch.name in ROLES and (of_run / "patch.json").is_file():
            return of_run
        recipe_file = prepare(self._recipe, patch)
        directory = self._work / patch.name / patch.role
        if not (directory / "patch.json").is_file():
            logger.info("ablation: trains %s", patch.name)
            train_patch(recipe_file, patch.role)
        return directory

    def run_patches(self) -> tuple[Path, Path]:
        """The directories of the run's own safety and over-safety patch."""
        safety, over_safety = (self.directory(patch_of_run(self._recipe, role)) for role in ROLES)
        return safety, over_safety

    def pair(self, patch: WholePatch) -> tuple[Path, Path]:
        """The safety and the over-safety patch to merge a whole patch from.

        A baseline's stands for both, as its merge takes nothing of the other.
        """
        if patch.name in ROLES:
            return self.run_patches()
        directory = self.directory(patch)
        return directory, directory

    def close(self) -> None:
        """Delete what was trained here, unless the recipe keeps it."""
        if self._work.exists() and not self._recipe.keep_intermediates:
            logger.info("%s: deleted, as the ablation is done", self._work)
            shutil.rmtree(self._work)
