"""A variant: one model that a run compares with its patched model, and what it is made of."""

from dataclasses import dataclass
from typing import Any

from launch.recipe import Recipe
from merge.io.patch_directory import Role
from merge.settings import MergeSettings, RoundingName
from train.recipe import DataSettings
from train.settings import TrainingSettings


@dataclass(frozen=True)
class WholePatch:
    """One patch, put into the backbone whole and at full strength."""

    name: str
    """Name of the patch's folder."""
    role: Role
    training: TrainingSettings
    harmless: DataSettings | None
    rounding: RoundingName
    """As for the patched model, so that neither loses what the other keeps."""

    @property
    def merge(self) -> MergeSettings:
        """The settings of its merge."""
        return whole_patch(self.role, self.rounding)


Model = MergeSettings | WholePatch | None
"""What a variant's weights are made of: a merge of the run's patches, or one whole patch; ``None``
is the backbone."""


@dataclass(frozen=True)
class Variant:
    """A model that is compared.

    Attributes:
        name: in ablation.json, or in the report, where its folder in ``eval`` has this name too.
        title: what the ablation's table calls it.
        how: where its settings come from, in words.
    """

    name: str
    title: str
    how: str
    model: Model

    @property
    def merge(self) -> MergeSettings:
        """The settings of its merge; the backbone has none."""
        assert self.model is not None
        return self.model.merge if isinstance(self.model, WholePatch) else self.model


def whole_patch(role: Role, rounding: RoundingName) -> MergeSettings:
    """The merge of a whole patch, at full strength, with nothing of the other."""
    return MergeSettings(method=role, retention=1, include=("*",), rounding=rounding)


def patch_of_run(recipe: Recipe, role: Role) -> WholePatch:
    """One of the run's own two patches alone."""
    training, rounding = recipe.training(role), recipe.merge.rounding
    return WholePatch(role, role, training, recipe.harmless, rounding)


def model_key(model: Model) -> dict[str, Any]:
    """All that the weights of a variant are made from, in a run folder whose recipe stays."""
    if isinstance(model, WholePatch):
        training = model.training.model_dump(mode="json")
        harmless = model.harmless and model.harmless.model_dump(mode="json")
        return {
            "whole_patch": model.role,
            "training": training,
            "harmless": harmless,
            "rounding": model.rounding,
        }
    return {"merge": model and model.model_dump(mode="json")}
