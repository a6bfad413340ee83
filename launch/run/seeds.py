"""The same recipe with the seeds 0, 1, ...: a run folder for each, in one folder."""

from collections.abc import Sequence
from pathlib import Path

from launch.recipe import Recipe
from merge.common.errors import UserError
from train.recipe import load_recipe


def seed_recipes(recipe: Path, overrides: Sequence[str], seeds: int) -> tuple[Path, list[Recipe]]:
    """The folder of all runs, and for each of the seeds 0, 1, ... its recipe.

    Raises:
        UserError: the recipe has a mistake, or nothing that could be compared.
    """
    folder = load_recipe(recipe, overrides, Recipe).output
    recipes = [
        load_recipe(
            recipe, [*overrides, f"seed={seed}", f"output={seed_folder(folder, seed)}"], Recipe
        )
        for seed in range(seeds)
    ]
    if any(each.eval is None for each in recipes):
        raise UserError(f"recipe {recipe}: has no eval section, so seeds cannot be compared")
    return folder, recipes


def seed_folder(folder: Path, seed: int) -> Path:
    """The run folder of one of several seeds."""
    return folder / f"seed-{seed}"


def seed_runs(folder: Path) -> list[Path]:
    """The run folders of several seeds in ``folder``, in their order; none for a single run."""
    runs = [path for path in folder.glob("seed-*") if path.name.removeprefix("seed-").isdigit()]
    return sorted(runs, key=lambda path: int(path.name.removeprefix("seed-")))
