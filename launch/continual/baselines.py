"""The baselines of continual alignment: the safety training alone, stage upon stage."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

from launch.continual.stage_recipes import (
    ContinualStage,
    baseline_stages,
    continual_settings,
    validation_beside,
)
from launch.pipeline.pipeline import Pipeline
from launch.pipeline.stages import STAGES
from launch.pipeline.work import backbone
from launch.recipe import Recipe
from launch.run.evaluations import Evaluations
from launch.run.folder import PATCHED, claim_folder, is_evaluated, is_merged
from launch.run.stage import Stage, StageTable, always, stage_table
from launch.run.variant import whole_patch
from merge.common.errors import UserError
from merge.engine.resources import MergeResources


def baseline_table(baseline: str) -> StageTable:
    """The stages of one stage of a baseline."""
    return stage_table(
        replace(STAGES["openings"], run=_learn_openings),
        STAGES["safety"],
        Stage(
            name="merge",
            needs=("safety",),
            is_wanted=always,
            is_done=_is_merged,
            run=_merge,
            resources="merge",
        ),
        Stage(
            name="evaluate",
            needs=("merge",),
            is_wanted=always,
            is_done=lambda recipe: is_evaluated(recipe.output, baseline),
            run=partial(_evaluate, baseline),
            resources="evaluation",
        ),
    )


def find_baseline(recipe: Recipe, label: str) -> tuple[ContinualStage, str]:
    """A stage of a baseline and the baseline's name, by BASELINE/STAGE.

    Raises:
        UserError: there is none.
    """
    baseline, _, name = label.partition("/")
    if baseline in continual_settings(recipe).baselines:
        for stage in baseline_stages(recipe, baseline):
            if stage.settings.name == name:
                return stage, baseline
    raise UserError(f"--baseline {label}: the recipe has no such BASELINE/STAGE under 'continual'")


def run_baseline(stage: ContinualStage, baseline: str, part: str | None = None) -> None:
    """Do one stage of a baseline, or one part of it alone, unless it is done.

    Raises:
        UserError: it cannot be done, or another process is at it.
        StoppedOnRequestError: a signal asked for it; what was finished before stays.
    """
    claim_folder(stage.recipe)
    pipeline = Pipeline(stage.recipe, baseline_table(baseline))
    for name in pipeline.stages() if part is None else [part]:
        pipeline.run_unless_done(name)


def _learn_openings(recipe: Recipe) -> None:
    """Ask the validation prompts of SafePatching's stage too.

    A harvested D_h has only questions that the first backbone does not refuse.
    """
    from launch.prepare.openings import write_run_openings

    write_run_openings(recipe, validation_beside(recipe))


def _is_merged(recipe: Recipe) -> bool:
    kept = recipe.keep_intermediates
    return is_merged(recipe.output) and (kept or not _patch(recipe).exists())


def _merge(recipe: Recipe) -> None:
    """Make the trained model of the whole patch, as it is."""
    from merge.build import build

    patch = _patch(recipe)
    if not is_merged(recipe.output):
        # The one patch stands for both: this method merges no other.
        out, settings = recipe.output / PATCHED, whole_patch("safety", recipe.merge.rounding)
        build(backbone(recipe), patch, patch, out, settings, MergeResources())
    if patch.exists() and not recipe.keep_intermediates:
        shutil.rmtree(patch)


def _evaluate(baseline: str, recipe: Recipe) -> None:
    evaluations = Evaluations(recipe, backbone(recipe))
    evaluations.evaluate(baseline, recipe.output / PATCHED)


def _patch(recipe: Recipe) -> Path:
    return recipe.output / "safety"
