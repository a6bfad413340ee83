"""Which stages of a run are done, from what they have left in its folder."""

from pathlib import Path

from launch.demo.world import RECORD
from launch.prepare.first_patch import FIRST, first_patch
from launch.recipe import Recipe
from launch.run.evaluations import Evaluations
from launch.run.folder import (
    ABLATION,
    ABLATION_RECORD,
    ALIGNMENT,
    FALSE_REFUSALS,
    HARVEST,
    PAIRS,
    PATCHED,
    SEARCH_RECORD,
    report_file,
)
from launch.run.stages import StageName
from merge.common.files import read_json
from merge.settings import MergeSettings
from train.guards.openings_file import OPENINGS_FILE
from train.recipe import ROLES


def is_done(recipe: Recipe, stage: StageName) -> bool:
    """Whether a stage has left all its files, or what was made of them is there."""
    folder = recipe.output
    if stage == "world":
        return (folder / "world" / RECORD).is_file()
    if stage == "alignment":
        return (folder / ALIGNMENT / "backbone").is_dir()
    if stage == "evaluate":
        return report_file(folder).is_file()
    if stage == "ablation":
        return (folder / ABLATION / ABLATION_RECORD).is_file()
    merged = is_merged(folder)
    if stage == "merge":
        return merged and not intermediates(recipe)
    if stage == "search":
        # A comparison that the recipe has got since can be made while the patches are there.
        return (merged and not _has_patches(folder)) or _is_searched(recipe)
    if stage == "harvest":
        return merged or (folder / HARVEST / PAIRS).is_file()
    if stage == "openings":
        return merged or (folder / OPENINGS_FILE).is_file()
    harvested = (folder / HARVEST / FALSE_REFUSALS).is_file()
    if stage == "over_safety_first":
        return merged or harvested or (first_patch(folder) / "patch.json").is_file()
    if stage == "false_refusals":
        left = (folder / FIRST).exists() and not recipe.keep_intermediates
        return merged or (harvested and not left)
    return merged or (folder / stage / "patch.json").is_file()


def is_merged(folder: Path) -> bool:
    """Whether a run folder holds its patched model."""
    return (folder / PATCHED / "merge.json").is_file()


def intermediates(recipe: Recipe) -> list[Path]:
    """What goes once it is merged: the over-safety patch is a jailbreak."""
    if recipe.keep_intermediates:
        return []
    names = ("over_safety", FIRST, "comparisons", HARVEST)
    return [recipe.output / name for name in names if (recipe.output / name).exists()]


def chosen_settings(recipe: Recipe) -> dict[str, MergeSettings]:
    """The merge settings by method, those of the patched model first.

    They come from the search, or are the recipe's own.
    """
    if recipe.search is None:
        return {recipe.merge.method: recipe.merge}
    chosen = read_json(recipe.output / SEARCH_RECORD)["chosen"]
    return {method: MergeSettings(**values) for method, values in chosen.items()}


def _has_patches(folder: Path) -> bool:
    return all((folder / role / "patch.json").is_file() for role in ROLES)


def _is_searched(recipe: Recipe) -> bool:
    if recipe.search is not None and not (recipe.output / SEARCH_RECORD).is_file():
        return False
    evaluations = Evaluations(recipe, recipe.output)
    compared = [
        *evaluations.single_patches(),
        *evaluations.alternatives(chosen_settings(recipe)),
    ]
    return all(evaluations.is_done(comparison.name) for comparison in compared)
