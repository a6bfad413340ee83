"""What every part of the method is worth: one run's ablation table, curves and spread over seeds.

It comes before the merge deletes the intermediates. Merges are made in memory, and every outcome is
kept at once: a killed ablation goes on with the next.
"""

from collections.abc import Sequence
from pathlib import Path

from launch.ablation.patches import AblationPatches, make_private_folder
from launch.ablation.record import read_record, run_record, summarise, write_record
from launch.ablation.sensitivity import curves, retention_seeds
from launch.recipe import Recipe
from launch.run.folder import ABLATION
from launch.run.variant_list import chosen_settings, variants
from merge.common.files import make_directory
from train.backbone.folder import backbone_directory


def measure(recipe: Recipe) -> Path:
    """Evaluate every part, once the merge settings are chosen and before the merge deletes patches.

    Returns:
        The folder with ablation.json, ablation.md and sensitivity.svg.

    Raises:
        UserError: a patch cannot be trained, or an evaluation cannot be done.
        StoppedOnRequestError: a signal asked for it; what was finished before stays.
    """
    from launch.ablation.evaluator import VariantEvaluator  # loads transformers

    backbone, chosen = backbone_directory(recipe.backbone), chosen_settings(recipe)
    full = next(iter(chosen.values()))
    rows, lines = variants(recipe, chosen), curves(full)
    seeds = retention_seeds(full, recipe.ablate_settings().retention_seeds)
    folder = recipe.output / ABLATION
    make_directory(folder)
    make_private_folder(recipe)
    patches = AblationPatches(recipe)
    evaluator = VariantEvaluator(recipe, backbone, patches, folder)
    points = [point.settings for line in lines.values() for point in line]
    evaluator.evaluate([*(row.model for row in rows), *points, *seeds])
    record = run_record(recipe, full, rows, lines, seeds, evaluator.outcome)
    write_record(folder, record)
    patches.close()
    return folder


def average(folder: Path, runs: Sequence[Path]) -> Path:
    """Summarise the ablations of runs that differ in their seed; returns the summary's folder."""
    records = [read_record(run / ABLATION) for run in runs]
    make_directory(folder / ABLATION)
    write_record(folder / ABLATION, summarise(records))
    return folder / ABLATION
