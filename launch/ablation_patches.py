"""The patches that an ablation needs: those of the run, and one of each rival.

What the run has deleted is trained again, to the same bits. All of it lies in one private folder,
because the over-safety patch is a jailbreak, and so is the model that it makes alone.
"""

import logging
import shutil
from pathlib import Path

from launch.evaluations import whole_patch
from launch.recipe import Recipe
from launch.run_folder import claim_folder
from launch.training import train_patch
from launch.variants import WholePatch
from merge.build import build
from merge.files import make_directory
from merge.resources import MergeResources
from train.openings_file import OPENINGS_FILE
from train.recipe import ROLES

logger = logging.getLogger(__name__)

_PRIVATE_FOLDER = 0o700


class AblationPatches:
    """Finds or trains patches, and makes models of one of them alone."""

    def __init__(self, recipe: Recipe, backbone: Path, work: Path) -> None:
        self._recipe = recipe
        self._backbone = backbone
        self._work = work

    def directory(self, patch: WholePatch) -> Path:
        """The patch's directory; it is trained if there is none yet.

        Raises:
            UserError: it cannot be trained.
            StoppedOnRequestError: a signal asked for it.
        """
        recipe = self._recipe
        of_run = recipe.output / patch.name
        if patch.name in ROLES and (of_run / "patch.json").is_file():
            return of_run
        self._make_work()
        changes = {"output": self._work / patch.name, patch.role: patch.training}
        if patch.name not in ROLES:
            # A model of one whole patch ranks nothing.
            unranked = recipe.importance.model_copy(update={"samples": 1})
            changes |= {"importance": unranked, "harmless": patch.harmless}
        recipe_file = claim_folder(recipe.model_copy(update=changes))
        openings = recipe.output / OPENINGS_FILE
        if openings.is_file():
            # Of the same backbone; the guard of the refusal margin looks for it beside the patch.
            shutil.copyfile(openings, self._work / patch.name / OPENINGS_FILE)
        directory = self._work / patch.name / patch.role
        if not (directory / "patch.json").is_file():
            logger.info("ablation: trains %s", patch.name)
            train_patch(recipe_file, patch.role)
        return directory

    def run_patches(self) -> tuple[Path, Path]:
        """The directories of the run's own safety and over-safety patch."""
        recipe = self._recipe
        safety, over_safety = (
            self.directory(WholePatch(role, role, recipe.training(role), recipe.harmless))
            for role in ROLES
        )
        return safety, over_safety

    def build(self, patch: WholePatch) -> Path:
        """The folder of the model that is the backbone and this whole patch."""
        safety, over_safety = self.run_patches()
        if patch.role == "safety":
            safety = self.directory(patch)
        self._make_work()
        out = self._work / "model"
        if out.exists():
            shutil.rmtree(out)
        build(self._backbone, safety, over_safety, out, whole_patch(patch.role), MergeResources())
        return out

    def close(self) -> None:
        """Delete what is here, unless the recipe keeps it."""
        if self._work.exists() and not self._recipe.keep_intermediates:
            logger.info("%s: deleted, as the ablation is done", self._work)
            shutil.rmtree(self._work)

    def _make_work(self) -> None:
        make_directory(self._work, _PRIVATE_FOLDER)
