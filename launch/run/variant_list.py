"""The list of a run's variants, which its report and its ablation read.

The report shows what the recipe names, with ``eval.baselines`` the baselines too; ``launch ablate``
shows all but decodings. As in the paper's ablation a variant is the chosen settings with one thing
replaced.

| variants | key of the recipe | made of | shown by |
|---|---|---|---|
| backbone, patched model | | the chosen settings | both |
| parts of the method | | the chosen settings without one part | ablation |
| ablations | ``ablations`` | the chosen settings, with what the key changes | both |
| single patches | ``eval.single_patches`` | one whole patch | both |
| other methods | ``search.methods`` | the settings of their own search | both |
| published methods | | the chosen settings, where they have no search of their own | ablation |
| baselines | ``ablate.baselines`` | the whole patch of a training of their own | ablation |
| decodings | ``eval.decodings`` | the backbone, asked in another way | report |
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from launch.recipe import Recipe, changed_values
from launch.run.folder import SEARCH_RECORD
from launch.run.variant import Variant, WholePatch, patch_of_run
from merge.common.errors import UserError
from merge.common.files import read_json
from merge.common.settings import parse_settings
from merge.methods import METHODS
from merge.settings import MergeSettings
from train.recipe import ROLES
from train.settings import OBJECTIVES, Objective, SafetyTraining

logger = logging.getLogger(__name__)

_SCORES = {
    "weight": "ranked by weight: abs(theta_0 + delta) * G",
    "delta": "ranked by delta: abs(delta) * G",
    "magnitude": "ranked by abs(delta) alone",
}
Chosen = Mapping[str, MergeSettings]
"""Merge settings by method, those of the patched model first."""


def chosen_settings(recipe: Recipe) -> dict[str, MergeSettings]:
    """The merge settings by method, those of the patched model first.

    They come from the search, or are the recipe's own.
    """
    if recipe.search is None:
        return {recipe.merge.method: recipe.merge}
    chosen = read_json(recipe.output / SEARCH_RECORD)["chosen"]
    return {method: MergeSettings(**values) for method, values in chosen.items()}


def report_names(recipe: Recipe) -> list[str]:
    """What the report of a recipe that evaluates calls its models, in its order."""
    assert recipe.eval is not None
    alone = ROLES if recipe.eval.single_patches else ()
    methods = recipe.search.methods[1:] if recipe.search else ()
    trained = [row.name for row in reported_baselines(recipe)]
    others = (*alone, *trained, *recipe.eval.decodings, *methods, *recipe.ablations)
    return ["backbone", *others, "safepatching"]


def compared(recipe: Recipe, chosen: Chosen) -> list[Variant]:
    """The variants that the report shows and that are merged of the run's patches, in its order.

    Raises:
        UserError: a variant's settings do not fit each other.
    """
    if recipe.eval is None:
        return []
    alone = _single_patches(recipe) if recipe.eval.single_patches else ()
    return [*alone, *_searched(chosen), *_ablations(recipe, chosen)]


def compares(recipe: Recipe) -> bool:
    """Whether the report shows variants that are merged of the run's patches."""
    searched = recipe.search.methods[1:] if recipe.search else ()
    return recipe.eval is not None and bool(
        recipe.eval.single_patches or searched or recipe.ablations
    )


def check_ablation(recipe: Recipe) -> None:
    """See that there are prompts to compare variants by, and name the baselines that are left out.

    Raises:
        UserError: the recipe evaluates nothing.
    """
    if recipe.eval is None:
        raise UserError(f"recipe {recipe.name}: has no eval section, which ablate needs; add one")
    warn_of_left_out(recipe)


def variants(recipe: Recipe, chosen: Chosen) -> list[Variant]:
    """The rows of the ablation's table, in order.

    Raises:
        UserError: a variant's settings do not fit each other.
    """
    full = _full(chosen)
    rows = [
        Variant("backbone", "backbone", "", None),
        Variant("full", "SafePatching", "chosen" if recipe.search else "the recipe's", full),
        *(_changed(full, part, f"variant {part.name}") for part in _parts(full)),
    ]
    others = [*_single_patches(recipe), *_methods(chosen), *baselines(recipe)]
    taken = {row.name for row in (*rows, *others)}
    own = (
        replace(row, name=f"ablations.{row.name}") if row.name in taken else row
        for row in _ablations(recipe, chosen, _parts(full))
    )
    return [*rows, *own, *others]


def _full(chosen: Chosen) -> MergeSettings:
    return next(iter(chosen.values()))


@dataclass(frozen=True)
class _Change:
    """What one variant changes in the settings of the merge, all else kept."""

    name: str
    title: str
    values: Mapping[str, Any]


def _parts(full: MergeSettings) -> list[_Change]:
    """The parts of the method, each left out or replaced."""
    rule = METHODS[full.method]
    parts = []
    if rule.drawn:
        parts.append(_Change("no_retention", "without retention", {"retention": 1.0}))
    if rule.by_importance:
        dense = _Change("no_importance", "without importance (dense)", {"method": "dense"})
        scores = (_Change(f"score_{key}", title, {"score": key}) for key, title in _SCORES.items())
        other = _Change("intersection", "intersection set", {"method": "intersection"})
        parts += [dense, *scores, other]
    if full.rounding == "stochastic":
        parts.append(_Change("nearest", "rounded to nearest", {"rounding": "nearest"}))
    return parts


def _ablations(recipe: Recipe, chosen: Chosen, shown: Iterable[_Change] = ()) -> Iterator[Variant]:
    """The ablations that the recipe names, without those that are shown under other names."""
    same = [change.values for change in shown]
    for name, values in recipe.ablations.items():
        if values not in same:
            change = _Change(name, name.replace("_", " "), values)
            yield _changed(_full(chosen), change, f"ablations.{name}")


def _changed(full: MergeSettings, change: _Change, source: str) -> Variant:
    """The patched model with some settings changed; an error calls them ``source``."""
    values = full.values_for(change.values.get("method", full.method))
    settings = parse_settings(MergeSettings, {**values, **change.values}, source)
    words = ", ".join(f"{key} {value}" for key, value in change.values.items())
    how = "as chosen" if settings == full else f"chosen, with {words}"
    return Variant(change.name, change.title, how, settings)


def _single_patches(recipe: Recipe) -> Iterator[Variant]:
    """The backbone with one whole patch alone: the two extremes of the paper's table."""
    titles = {"safety": "safety patch alone", "over_safety": "over-safety patch alone"}
    for role in ROLES:
        yield Variant(role, titles[role], "the whole patch", patch_of_run(recipe, role))


def _searched(chosen: Chosen) -> Iterator[Variant]:
    """The other methods' best merges, each by a search of its own."""
    _, *others = chosen
    for method in others:
        title = METHODS[chosen[method].method].published or f"{method}, a search of its own"
        yield Variant(method, title, "its own search", chosen[method])


def _methods(chosen: Chosen) -> Iterator[Variant]:
    """The searched methods, and every published one: without a search, with the chosen settings."""
    full, searched = _full(chosen), {row.name: row for row in _searched(chosen)}
    for method, row in searched.items():
        if METHODS[chosen[method].method].published is None:
            yield replace(row, name=f"{method}_searched")
    for method, rules in METHODS.items():
        title = rules.published
        if title is None or method == full.method:
            continue
        if method in searched:
            yield searched[method]
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
    harmless_pairs = recipe.ablate_settings().harmless
    rows = []
    for name, training in _baseline_trainings(recipe).items():
        objective = OBJECTIVES[training.objective]
        if _lacks(recipe, objective) is None:
            harmless = harmless_pairs if objective.needs_harmless else recipe.harmless
            same = training == recipe.safety and harmless == recipe.harmless
            folder, rounding = "safety" if same else name, recipe.merge.rounding
            patch = WholePatch(folder, "safety", training, harmless, rounding)
            how = "the safety patch" if same else "trained with the safety patch's other settings"
            rows.append(Variant(name, name.replace("_", " "), how, patch))
    return rows


def reported_baselines(recipe: Recipe) -> list[Variant]:
    """The baselines that stand in the report as well; none unless the recipe asks (issue 17).

    Raises:
        UserError: a baseline's training has wrong settings.
    """
    return baselines(recipe) if recipe.eval is not None and recipe.eval.baselines else []


def trained_baselines(recipe: Recipe) -> list[WholePatch]:
    """The patches that a run trains for its report's baselines, besides its own.

    Raises:
        UserError: a baseline's training has wrong settings.
    """
    models = (row.model for row in reported_baselines(recipe))
    return [each for each in models if isinstance(each, WholePatch) and each.name not in ROLES]


def warn_of_left_out(recipe: Recipe) -> None:
    """Name the baselines that are left out, and what would bring them back."""
    for name, training in _baseline_trainings(recipe).items():
        lacking = _lacks(recipe, OBJECTIVES[training.objective])
        if lacking is not None:
            logger.warning("%s: left out, as it needs %s", name, lacking)


def _baseline_trainings(recipe: Recipe) -> dict[str, SafetyTraining]:
    values = recipe.safety.model_dump()
    return {
        name: parse_settings(
            SafetyTraining, changed_values(values, changes), f"ablate.baselines.{name}"
        )
        for name, changes in recipe.ablate_settings().baselines.items()
    }


def _lacks(recipe: Recipe, objective: Objective) -> str | None:
    """What a training needs and the recipe does not have."""
    if objective.needs_harmless and recipe.ablate_settings().harmless is None:
        return "harmless pairs in ablate.harmless"
    if objective.needs_refusals and recipe.refusals is None:
        return "a section 'refusals' in the recipe"
    return None
