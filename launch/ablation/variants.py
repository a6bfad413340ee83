"""The rows of an ablation table: the chosen merge, it without each of its parts, its baselines.

As in the paper's ablation a variant is the chosen settings with one thing replaced. A baseline
method whose settings the search has chosen as well is shown with those.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from launch.recipe import Recipe, changed_values
from merge.common.errors import UserError
from merge.common.settings import parse_settings
from merge.io.patch_directory import Role
from merge.methods import METHODS
from merge.settings import MergeSettings
from train.recipe import ROLES, DataSettings
from train.settings import OBJECTIVES, SafetyTraining, TrainingSettings

logger = logging.getLogger(__name__)

_SCORES = {
    "weight": "ranked by weight: abs(theta_0 + delta) * G",
    "delta": "ranked by delta: abs(delta) * G",
    "magnitude": "ranked by abs(delta) alone",
}


@dataclass(frozen=True)
class WholePatch:
    """One patch, put into the backbone whole and at full strength."""

    name: str
    """Name of the patch's folder."""
    role: Role
    training: TrainingSettings
    harmless: DataSettings | None


Model = MergeSettings | WholePatch | None
"""What an evaluation is of; None is the backbone."""


def model_key(model: Model) -> dict[str, Any]:
    """All that a model is made from, in a run folder whose recipe stays."""
    if isinstance(model, WholePatch):
        training = model.training.model_dump(mode="json")
        harmless = model.harmless and model.harmless.model_dump(mode="json")
        return {"whole_patch": model.role, "training": training, "harmless": harmless}
    return {"merge": model and model.model_dump(mode="json")}


@dataclass(frozen=True)
class Variant:
    """A row of the table."""

    name: str
    title: str
    how: str
    """Where its settings come from."""
    model: Model


def refuse_unevaluated(recipe: Recipe) -> None:
    """See that there are prompts to compare models by.

    Raises:
        UserError: the recipe evaluates nothing.
    """
    if recipe.eval is None:
        raise UserError(f"recipe {recipe.name}: has no eval section, which ablate needs; add one")


def variants(recipe: Recipe, chosen: Mapping[str, MergeSettings]) -> list[Variant]:
    """All rows, in order.

    Args:
        chosen: settings by method, those of the patched model first.

    Raises:
        UserError: a variant's settings do not fit each other.
    """
    first, *others = chosen
    full = chosen[first]
    rows = [
        Variant("backbone", "backbone", "", None),
        Variant("full", "SafePatching", "chosen" if recipe.search else "the recipe's", full),
        *_ablations(full),
        *_whole_patches(recipe),
        *_baseline_methods(full, {method: chosen[method] for method in others}),
    ]
    return [*rows, *baselines(recipe)]


def _ablations(full: MergeSettings) -> Iterator[Variant]:
    rule = METHODS[full.method]
    if rule.drawn:
        yield _changed(full, "no_retention", "without retention", {"retention": 1.0})
    if rule.by_importance:
        yield _changed(full, "no_importance", "without importance (dense)", {"method": "dense"})
        for score, title in _SCORES.items():
            yield _changed(full, f"score_{score}", title, {"score": score})
        yield _changed(full, "intersection", "intersection set", {"method": "intersection"})


def _changed(full: MergeSettings, name: str, title: str, changes: dict[str, Any]) -> Variant:
    values = full.values_for(changes.get("method", full.method))
    settings = parse_settings(MergeSettings, {**values, **changes}, f"variant {name}")
    words = ", ".join(f"{key} {value}" for key, value in changes.items())
    how = "as chosen" if settings == full else f"chosen, with {words}"
    return Variant(name, title, how, settings)


def _whole_patches(recipe: Recipe) -> Iterator[Variant]:
    titles = {"safety": "safety patch alone", "over_safety": "over-safety patch alone"}
    for role in ROLES:
        patch = WholePatch(role, role, recipe.training(role), recipe.harmless)
        yield Variant(role, titles[role], "the whole patch", patch)


def _baseline_methods(
    full: MergeSettings, searched: Mapping[str, MergeSettings]
) -> Iterator[Variant]:
    for method, settings in searched.items():
        if METHODS[settings.method].published is None:
            title = f"{method}, a search of its own"
            yield Variant(f"{method}_searched", title, "its own search", settings)
    for method, rules in METHODS.items():
        title = rules.published
        if title is None or method == full.method:
            continue
        if method in searched:
            yield Variant(method, title, "its own search", searched[method])
            continue
        changes: dict[str, Any] = {"method": method}
        if rules.one_factor:
            changes |= {"beta": full.alpha, "scales": ()}
        settings = parse_settings(
            MergeSettings, {**full.values_for(method), **changes}, f"variant {method}"
        )
        factor = ", beta as alpha" if rules.one_factor else ""
        yield Variant(method, title, f"chosen, with method {method}{factor}", settings)


def baselines(recipe: Recipe) -> list[Variant]:
    """What one training alone makes of the backbone; none that needs pairs which are not there.

    Raises:
        UserError: a baseline's training has wrong settings.
    """
    settings = recipe.ablate_settings()
    found = []
    for name, changes in settings.baselines.items():
        values = changed_values(recipe.safety.model_dump(), changes)
        training = parse_settings(SafetyTraining, values, f"ablate.baselines.{name}")
        objective = OBJECTIVES[training.objective]
        harmless = settings.harmless if objective.needs_harmless else recipe.harmless
        if objective.needs_harmless and harmless is None:
            logger.warning("%s: left out, as it needs harmless pairs in ablate.harmless", name)
            continue
        if objective.needs_refusals and recipe.refusals is None:
            logger.warning("%s: left out, as it needs a section 'refusals' in the recipe", name)
            continue
        same = training == recipe.safety and harmless == recipe.harmless
        patch = WholePatch("safety" if same else name, "safety", training, harmless)
        how = "the safety patch" if same else "trained with the safety patch's other settings"
        found.append(Variant(name, name.replace("_", " "), how, patch))
    return found
