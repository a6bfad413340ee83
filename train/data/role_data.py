"""Which question-answer pairs a patch is trained on, and on which its importance is measured.

The paper derives both patches from D_h. An over-safety patch from harmless questions that the
backbone refuses, with good answers, says what a false refusal hangs on instead (issue 14).
"""

from collections.abc import Sequence

from merge.io.patch_directory import Role
from train.chat.example import Example
from train.data.examples import read_examples
from train.recipe import DataSettings, TrainRecipe
from train.settings import OBJECTIVES, OverSafetyTraining


def trained_sources(recipe: TrainRecipe, role: Role) -> dict[str, DataSettings]:
    """The sources of the pairs that a patch is trained on, by their keys in the recipe."""
    settings = recipe.training(role)
    wanted = settings.data if isinstance(settings, OverSafetyTraining) else "harmful"
    sources = {} if wanted == "false_refusals" else {"data": recipe.data}
    if wanted != "harmful":
        sources["false_refusals"] = _false_refusals(recipe)
    return sources


def trained_pairs(recipe: TrainRecipe, role: Role) -> list[Example]:
    """The pairs that a patch is trained on.

    Raises:
        UserError: a source is missing or malformed.
    """
    sources = trained_sources(recipe, role).values()
    return [example for source in sources for example in read_examples(source)]


def measured_pairs(recipe: TrainRecipe, role: Role) -> Sequence[Example]:
    """The pairs that a patch's importance is measured on; none where it is those of its training.

    Raises:
        UserError: as ``trained_pairs``.
    """
    wanted = recipe.importance.data.of(role)
    if wanted == "own":
        return ()
    return read_examples(recipe.data if wanted == "harmful" else _false_refusals(recipe))


def refused_pairs(recipe: TrainRecipe, role: Role) -> list[Example]:
    """Harmful questions with refusals; none where the objective of the training needs none.

    Raises:
        UserError: as ``trained_pairs``.
    """
    if not OBJECTIVES[recipe.training(role).objective].needs_refusals:
        return []
    assert recipe.refusals is not None  # the recipe is checked for it
    return read_examples(recipe.refusals)


def _false_refusals(recipe: TrainRecipe) -> DataSettings:
    assert recipe.false_refusals is not None  # the recipe is checked for it
    return recipe.false_refusals
