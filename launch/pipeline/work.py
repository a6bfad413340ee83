"""The work of a run's stages, each from its recipe and what the stages before have left.

What a stage needs is imported when it runs: other commands read the table of stages alone.
"""

import logging
import shutil
from pathlib import Path

from launch.recipe import Recipe
from launch.run.evaluations import Evaluations
from launch.run.folder import (
    COMPARISONS,
    FIRST,
    HARVEST,
    MERGED,
    PATCHED,
    SEARCH_RECORD,
    report_file,
)
from launch.run.variant_list import chosen_settings, compared
from train.recipe import ROLES

logger = logging.getLogger(__name__)


def backbone(recipe: Recipe) -> Path:
    """The folder of the model that is patched; a hub's is downloaded."""
    from train.backbone.folder import backbone_directory

    return backbone_directory(recipe.backbone)


def make_world(recipe: Recipe) -> None:
    """Make the demo's backbone and data."""
    from launch.demo.world import build_world

    assert recipe.world is not None
    build_world(recipe.output / "world", recipe.world, recipe.seed)


def align(recipe: Recipe) -> None:
    """Make a backbone that refuses, of another model."""
    from launch.prepare.alignment import align

    align(recipe)


def harvest(recipe: Recipe) -> None:
    """Make D_h of the backbone's own answers."""
    from launch.prepare.harvest import harvest

    harvest(recipe)


def learn_openings(recipe: Recipe) -> None:
    """Learn how the backbone's refusals open, and hand that on to trainings in other folders."""
    from launch.ablation.patches import hand_over_openings
    from launch.prepare.openings import write_run_openings

    write_run_openings(recipe)
    if recipe.harvest is not None and recipe.harvest.harmless is not None:
        prepare_first_patch(recipe)
    hand_over_openings(recipe.output)


def prepare_first_patch(recipe: Recipe) -> None:
    """Make the folder in which the first over-safety patch is trained."""
    from launch.prepare.first_patch import prepare_first

    prepare_first(recipe)


def harvest_false_refusals(recipe: Recipe) -> None:
    """Make pairs of what the backbone refuses falsely."""
    from launch.prepare.false_refusals import harvest_false_refusals

    harvest_false_refusals(recipe)


def search(recipe: Recipe) -> None:
    """Choose the merge settings."""
    from launch.search.search import search

    search(recipe, backbone(recipe), (recipe.output / SEARCH_RECORD).parent)


def compare(recipe: Recipe) -> None:
    """Evaluate the variants that the report shows, while the patches are there."""
    evaluations = Evaluations(recipe, backbone(recipe))
    for variant in compared(recipe, chosen_settings(recipe)):
        evaluations.compare(variant)


def share_search(recipe: Recipe, worker: int) -> None:
    """Do one worker's share of a search's trials.

    Args:
        worker: its number in the array of jobs.
    """
    from launch.search.workers import try_apart

    try_apart(recipe, backbone(recipe), (recipe.output / SEARCH_RECORD).parent, worker)


def evaluate_baselines(recipe: Recipe) -> None:
    """Train and evaluate the baselines that stand in the report."""
    from launch.ablation.baseline_models import evaluate_baselines

    evaluate_baselines(recipe, backbone(recipe))


def measure_ablation(recipe: Recipe) -> None:
    """Evaluate what every part of the method is worth."""
    from launch.ablation.ablate import measure

    measure(recipe)


def intermediates(recipe: Recipe) -> list[Path]:
    """What goes once it is merged: the over-safety patch is a jailbreak, as its checkpoints are."""
    from launch.ablation.patches import WORK

    if recipe.keep_intermediates:
        return []
    names = ["over_safety", FIRST, COMPARISONS, HARVEST]
    if recipe.eval is not None and recipe.eval.baselines:
        names.append(WORK)
    paths = [*map(recipe.checkpoints, ROLES), *(recipe.output / name for name in names)]
    return [path for path in paths if path.exists()]


def merge(recipe: Recipe) -> None:
    """Make the patched model, and delete the intermediates."""
    from merge.pictures import density

    folder = recipe.output
    if not (folder / MERGED).is_file():
        settings = next(iter(chosen_settings(recipe).values()))
        # One that is there is of a model that was deleted.
        report_file(folder).unlink(missing_ok=True)
        evaluations = Evaluations(recipe, backbone(recipe))
        evaluations.build(settings, folder / PATCHED, folder / "tensorboard" / "merge")
    if not (folder / PATCHED / density.NAME).exists():
        density.write(folder / PATCHED)
    for path in intermediates(recipe):
        logger.info("%s: deleted, as it is merged", path)
        shutil.rmtree(path)


def evaluate(recipe: Recipe) -> None:
    """Evaluate backbone and patched model, and compare all that is evaluated."""
    evaluations = Evaluations(recipe, backbone(recipe))
    evaluations.evaluate_backbone()
    evaluations.evaluate_decodings()
    evaluations.evaluate("safepatching", recipe.output / PATCHED)
    evaluations.report(recipe.output / SEARCH_RECORD)
