"""The rivals of continual alignment: the safety training alone, stage upon stage."""

import shutil
from pathlib import Path
from typing import Literal

from launch.continual.stage_recipes import Stage, continual_settings, is_made, rival_stages
from launch.recipe import Recipe
from launch.run.evaluations import Evaluations
from launch.run.folder import claim_folder, holding
from launch.run.pipeline import Pipeline
from launch.run.stopping import stop_on_signals
from merge.common.errors import UserError
from merge.engine.resources import MergeResources
from merge.settings import MergeSettings

RivalStage = Literal["openings", "safety", "merge", "evaluate"]
RIVAL_STAGES: tuple[RivalStage, ...] = ("openings", "safety", "merge", "evaluate")
_WHOLE = MergeSettings(method="safety", retention=1, include=("*",))


def rival_is_done(stage: Stage, rival: str, part: RivalStage) -> bool:
    """Whether a part of one stage of a rival has left its files, or is not wanted."""
    if part == "evaluate":
        return Evaluations(stage.recipe, stage.recipe.output).is_done(rival)
    if part == "merge":
        return is_made(stage) and (stage.recipe.keep_intermediates or not _patch(stage).exists())
    pipeline = Pipeline(stage.recipe)
    return part not in pipeline.stages() or pipeline.is_done(part)


def find_rival(recipe: Recipe, label: str) -> tuple[Stage, str]:
    """A stage of a rival and the rival's name, by RIVAL/STAGE.

    Raises:
        UserError: there is none.
    """
    rival, _, name = label.partition("/")
    if rival in continual_settings(recipe).rivals:
        for stage in rival_stages(recipe, rival):
            if stage.settings.name == name:
                return stage, rival
    raise UserError(f"--rival {label}: the recipe has no such RIVAL/STAGE under 'continual'")


def run_rival(stage: Stage, rival: str, part: RivalStage) -> None:
    """Do one part of one stage of a rival, unless it is done.

    Raises:
        UserError: it cannot be done, or another process is at it.
        StoppedOnRequestError: a signal asked for it; what was finished before stays.
    """
    claim_folder(stage.recipe)
    if rival_is_done(stage, rival, part):
        return
    if part in ("openings", "safety"):
        Pipeline(stage.recipe).run_unless_done(part)
        return
    with holding(stage.recipe.output, part), stop_on_signals():
        if part == "merge":
            _merge(stage)
        else:
            Evaluations(stage.recipe, stage.backbone()).evaluate(rival, stage.patched)


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
