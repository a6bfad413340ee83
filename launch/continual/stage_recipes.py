"""From a recipe with a list of stages to the recipe of each, an ordinary one.

RUN/stages/NAME is the run folder of a stage, RUN/baselines/BASELINE/NAME that of a baseline's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from launch.continual.settings import ContinualSettings, ContinualStageSettings
from launch.recipe import Recipe, changed_values
from launch.run.folder import FALSE_REFUSALS, HARVEST, PATCHED, is_merged
from merge.common.errors import UserError
from merge.common.files import atomic_write_text, make_directory
from merge.common.settings import parse_settings

NAME = "continual"
"""Name of the folder with the summary, and of its files."""
METHOD = "safepatching"
"""What the summary calls the patched models, beside the baselines."""
SEARCH_SUITE = "validation.yaml"
_STAGES = "stages"
_NOT_INHERITED = ("world", "alignment", "harvest", "continual", "cluster")
"""Sections of the whole run, which no stage repeats; but see ``_own_false_refusals``."""


@dataclass(frozen=True)
class ContinualStage:
    """One stage of one model's way through all stages."""

    settings: ContinualStageSettings
    so_far: tuple[ContinualStageSettings, ...]
    """This stage and those before it."""
    recipe: Recipe

    @property
    def patched(self) -> Path:
        """The model that comes of it."""
        return self.recipe.output / PATCHED


def continual_settings(recipe: Recipe) -> ContinualSettings:
    """The section of a recipe that has one.

    Raises:
        UserError: it has none, or nothing to evaluate the stages with.
    """
    if recipe.continual is None:
        raise UserError("recipe: has no continual section; add one with a list of stages")
    if recipe.eval is None:
        raise UserError("recipe: continual alignment needs an eval section, to compare the stages")
    return recipe.continual


def patch_stages(recipe: Recipe) -> list[ContinualStage]:
    """SafePatching's stages, the search of each over the harm prompts of the stages so far.

    Raises:
        UserError: a stage changes the recipe to one that does not hold.
    """
    return _stages(recipe, recipe.output / _STAGES, {})


def baseline_stages(recipe: Recipe, baseline: str) -> list[ContinualStage]:
    """A baseline's stages: the safety training alone, by its own changes, without a search."""
    changes = {**continual_settings(recipe).baselines[baseline], "search": None, "harvest": None}
    return _stages(recipe, recipe.output / "baselines" / baseline, changes)


def validation_beside(baseline: Recipe) -> Path | None:
    """The validation suite of SafePatching's stage beside one of a baseline, if it searches."""
    file = baseline.output.parents[2] / _STAGES / baseline.output.name / SEARCH_SUITE
    return file if file.is_file() else None


def _stages(recipe: Recipe, folder: Path, changes: Mapping[str, Any]) -> list[ContinualStage]:
    listed = continual_settings(recipe).stages
    backbone = recipe.backbone.path
    stages = []
    for number, settings in enumerate(listed):
        output = folder / settings.name
        values = recipe.model_dump(mode="json", exclude_none=True, exclude=set(_NOT_INHERITED))
        for change in (_own_false_refusals(recipe, output), settings.recipe, changes):
            values = changed_values(values, change)
        values["name"] = f"{recipe.name}-{settings.name}"
        values["output"] = str(output)
        values["backbone"] = {**values["backbone"], "path": backbone}
        values["data"] = {**values["data"], "categories": list(settings.categories)}
        if values.get("eval"):
            values["eval"] = {**values["eval"], "baselines": False}  # it has its own
        if values.get("search"):
            values["search"] = {**values["search"], "suite": str(output / SEARCH_SUITE)}
        checked = parse_settings(Recipe, values, f"continual.stages, {settings.name}")
        stages.append(ContinualStage(settings, listed[: number + 1], checked))
        backbone = str(stages[-1].patched)
    return stages


def _own_false_refusals(recipe: Recipe, output: Path) -> dict[str, Any]:
    """Changes by which a stage harvests what its own backbone refuses falsely.

    D_h is harvested once, of the first backbone. What a patched model still refuses is known only
    when it is there.
    """
    harvest = recipe.harvest
    if harvest is None or harvest.harmless is None:
        return {}
    own: dict[str, Any] = {
        "harvest": harvest.model_dump(mode="json", exclude_none=True, exclude={"questions"})
    }
    pairs, place = recipe.false_refusals, Path(HARVEST) / FALSE_REFUSALS
    if pairs is not None and Path(pairs.path) == recipe.output / place:
        own["false_refusals"] = {"path": str(output / place)}
    return own


def is_made(stage: ContinualStage) -> bool:
    """Whether the model that comes of a stage is there."""
    return is_merged(stage.recipe.output)


def belongs(category: str | None, stages: Sequence[ContinualStageSettings]) -> bool:
    """Whether a category of harm is one of the stages'."""
    return category is not None and any(
        fnmatchcase(category, pattern) for stage in stages for pattern in stage.categories
    )


def check_test_suite(stages: Sequence[ContinualStage], suite: Path, data_dir: Path | None) -> None:
    """See that the harm of every stage is asked: else its rate would be one of no prompts.

    Raises:
        UserError: the suite cannot be read, or has no plain harm prompt of a stage.
    """
    from eval.suites.prompts import load_prompts
    from eval.suites.suite import SuiteRow, load_suite

    categories = {
        prompt.category
        for prompt_set in load_prompts(load_suite(suite, data_dir))
        if isinstance(prompt_set.row, SuiteRow)
        and prompt_set.row.axis == "harm"
        and prompt_set.row.attack_kind is None
        for prompt in prompt_set.prompts
    }
    for stage in stages:
        if not any(belongs(category, [stage.settings]) for category in categories):
            raise _without_prompts(suite, stage.settings)


def _without_prompts(suite: Path, stage: ContinualStageSettings) -> UserError:
    return UserError(
        f"{suite}: no harm prompt has a category of stage '{stage.name}' "
        f"({', '.join(stage.categories)}); fix the stage's categories, or columns.category of the "
        "suite's rows"
    )


def write_search_suite(stage: ContinualStage, suite: Path, data_dir: Path | None) -> None:
    """Write the validation suite of a stage: of the harm prompts, those of the stages so far.

    A stage knows nothing of the harm that comes after it. A row's limit holds for its categories
    together, as in the suite. Rows of harm without categories, of refusals and of utility stay
    whole.

    Raises:
        UserError: the suite cannot be read, or none of its harm prompts is of a stage so far.
    """
    from eval.suites.prompts import load_prompts
    from eval.suites.suite import SuiteRow, load_suite

    rows: list[dict[str, Any]] = []
    has_own = False
    for prompt_set in load_prompts(load_suite(suite, data_dir)):
        row = prompt_set.row
        values = row.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        if not isinstance(row, SuiteRow) or row.axis != "harm" or row.columns.category is None:
            rows.append(values)
            continue
        categories = sorted({prompt.category or "" for prompt in prompt_set.prompts})
        so_far = [category for category in categories if belongs(category, stage.so_far)]
        has_own |= any(belongs(category, [stage.settings]) for category in so_far)
        if so_far:
            rows.append({**values, "filter": {**row.filter, row.columns.category: so_far}})
    if not has_own:
        raise _without_prompts(suite, stage.settings)
    make_directory(stage.recipe.output)
    atomic_write_text(stage.recipe.output / SEARCH_SUITE, yaml.safe_dump(rows, sort_keys=False))
