"""The baselines of continual alignment: the safety training alone, stage upon stage."""

import shutil
from pathlib import Path
from typing import Literal

from launch.continual.stage_recipes import Stage, baseline_stages, continual_settings, is_made
from launch.recipe import Recipe
from launch.run.evaluations import Evaluations
from launch.run.folder import claim_folder, holding
from launch.run.pipeline import Pipeline
from launch.run.stopping import stop_on_signals
from merge.common.errors import UserError
from merge.engine.resources import MergeResources
from merge.settings import MergeSettings

BaselineStage = Literal["openings", "safety", "merge", "evaluate"]
BASELINE_STAGES: tuple[BaselineStage, ...] = ("openings", "safety", "merge", "evaluate")
_WHOLE = MergeSettings(method="safety", retention=1, include=("*",))


def baseline_is_done(stage: Stage, baseline: str, part: BaselineStage) -> bool:
    """Whether a part of one stage of a baseline has left its files, or is not wanted."""
    if part == "evaluate":
        return Evaluations(stage.recipe, stage.recipe.output).is_done(baseline)
    if part == "merge":
        return is_made(stage) and (stage.recipe.keep_intermediates or not _patch(stage).exists())
    pipeline = Pipeline(stage.recipe)
    return part not in pipeline.stages() or pipeline.is_done(part)


def find_baseline(recipe: Recipe, label: str) -> tuple[Stage, str]:
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


def run_baseline(stage: Stage, baseline: str, part: BaselineStage) -> None:
    """Do one part of one stage of a baseline, unless it is done.

    Raises:
        UserError: it cannot be done, or another process is at it.
        StoppedOnRequestError: a signal asked for it; what was finished before stays.
    """
    claim_folder(stage.recipe)
    if baseline_is_done(stage, baseline, part):
        return
    if part in ("openings", "safety"):
        Pipeline(stage.recipe).run_unless_done(part)
        return
    with holding(stage.recipe.output, part), stop_on_signals():
        if part == "merge":
            _merge(stage)
        else:
            Evaluations(stage.recipe, stage.backbone()).evaluate(baseline, stage.patched)


def _merge(stage: Stage) -> None:
    """Make the trained model of the whole patch, as it is."""
    from merge.build import build

    patch = _patch(stage)
    if not is_made(stage):
        # The one patch stands for both: this method merges no other.
        build(stage.backbone(), patch, patch, stage.patched, _WHOLE, MergeResources())
    if patch.exists() and not stage.recipe.keep_intermediates:
        shutil.rmtree(patch)


def _patch(stage: Stage) -> Path:
    return stage.recipe.output / "safety"
