"""The models that are built beside the patched one, evaluated, and deleted; and their settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launch.recipe import Recipe
from launch.run.folder import SEARCH_RECORD
from merge.common.files import read_json
from merge.common.settings import parse_settings
from merge.io.patch_directory import Role
from merge.settings import MergeSettings
from train.recipe import ROLES


@dataclass(frozen=True)
class Comparison:
    """A model that is built beside the patched one, evaluated, and deleted."""

    name: str
    settings: MergeSettings
    model: Path


def chosen_settings(recipe: Recipe) -> dict[str, MergeSettings]:
    """The merge settings by method, those of the patched model first.

    They come from the search, or are the recipe's own.
    """
    if recipe.search is None:
        return {recipe.merge.method: recipe.merge}
    chosen = read_json(recipe.output / SEARCH_RECORD)["chosen"]
    return {method: MergeSettings(**values) for method, values in chosen.items()}


def compares(recipe: Recipe) -> bool:
    """Whether a recipe names models to compare beside those of a search."""
    return recipe.eval is not None and bool(recipe.eval.single_patches or recipe.ablations)


def whole_patch(role: Role) -> MergeSettings:
    """The merge of a whole patch, at full strength, with nothing of the other."""
    return MergeSettings(method=role, retention=1, include=("*",))


def single_patches(recipe: Recipe) -> list[Comparison]:
    """The backbone with one whole patch alone: the two extremes of the paper's table."""
    if recipe.eval is None or not recipe.eval.single_patches:
        return []
    # Inside the patch's own folder: with the over-safety patch this model is jailbroken.
    return [Comparison(role, whole_patch(role), recipe.output / role / "model") for role in ROLES]


def alternatives(recipe: Recipe, chosen: Mapping[str, MergeSettings]) -> list[Comparison]:
    """The other methods' best merges, and the ablations of the patched model's."""
    if recipe.eval is None:
        return []
    first, *others = chosen
    settings = {method: chosen[method] for method in others}
    for name, changes in recipe.ablations.items():
        changed = {
            **chosen[first].values_for(changes.get("method", chosen[first].method)),
            **changes,
        }
        settings[name] = parse_settings(MergeSettings, changed, f"ablations.{name}")
    return [
        Comparison(name, merge, recipe.output / "comparisons" / name)
        for name, merge in settings.items()
    ]


def is_evaluated(run: Path, name: str) -> bool:
    """Whether a run folder holds the evaluation of a model."""
    return (run / "eval" / name / "summary.json").is_file()
