"""The stages of a run: which there are, which of them a recipe has, and what each waits for."""

from typing import Literal

from launch.recipe import Recipe
from train.recipe import ROLES

StageName = Literal[
    "world",
    "alignment",
    "harvest",
    "openings",
    "over_safety_first",
    "false_refusals",
    "safety",
    "over_safety",
    "search",
    "ablation",
    "merge",
    "evaluate",
]
PREPARATIONS: tuple[StageName, ...] = ("world", "alignment", "harvest")
"""What makes backbone and data, in a recipe that does not name those that are there."""
ENDING: tuple[StageName, ...] = ("merge", "evaluate")
CHECKS, SUMMARY = WHOLE_STAGES = ("stages", "continual")
"""Jobs of a continual alignment beside those of its stages: one checks them all when backbone and
data are there, one compares them at the end."""
HARVEST_OF_FALSE_REFUSALS: tuple[StageName, ...] = ("over_safety_first", "false_refusals")
"""A patch trained on D_h first: the model that answers what the backbone refuses falsely."""
STAGES: dict[StageName, tuple[StageName, ...]] = {
    "world": (),
    "alignment": ("world",),
    "harvest": ("world", "alignment"),
    "openings": PREPARATIONS,
    "over_safety_first": (*PREPARATIONS, "openings"),
    "false_refusals": (*PREPARATIONS, "over_safety_first"),
    "safety": (*PREPARATIONS, "openings"),
    "over_safety": (*PREPARATIONS, "openings", "false_refusals"),
    "search": ("safety", "over_safety"),
    "ablation": ("safety", "over_safety", "search"),
    "merge": ("safety", "over_safety", "search", "ablation"),
    "evaluate": ("merge",),
}
"""Every stage in order, with those that come before it where the recipe has them."""


def stages_of(recipe: Recipe, ablate: bool = False) -> list[StageName]:
    """The stages that a recipe has, in order.

    Args:
        ablate: with the ablation, which needs the patches that the merge deletes.
    """
    harvest = recipe.harvest
    compares = recipe.eval and (recipe.eval.single_patches or recipe.ablations)
    without_harmless = harvest is None or harvest.harmless is None
    absent: dict[StageName, bool] = {
        "world": recipe.world is None,
        "alignment": recipe.alignment is None,
        "harvest": harvest is None or harvest.questions is None,
        "openings": not needs_openings(recipe),
        "over_safety_first": without_harmless,
        "false_refusals": without_harmless,
        "search": recipe.search is None and not compares,
        "ablation": not ablate,
        "evaluate": recipe.eval is None,
    }
    return [stage for stage in STAGES if not absent.get(stage)]


def needs_openings(recipe: Recipe) -> bool:
    """Whether a run lets the backbone answer before its trainings.

    Refusal margins need the openings of its refusals; and where there is a validation suite, a
    backbone without a fault is to be known before it is trained.
    """
    watched = any(recipe.training(role).guards.margin_samples for role in ROLES)
    return watched or recipe.search is not None


def needs_of(stage: StageName, recipe: Recipe) -> tuple[StageName, ...]:
    """The stages that must be done before one, where the recipe has them."""
    measured = recipe.importance.data.safety
    if stage == "safety" and measured == "false_refusals":
        return (*STAGES[stage], "false_refusals")
    return STAGES[stage]
