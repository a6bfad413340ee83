"""`python -m launch continual`: one patch after another, beside baselines that train on and on.

Every stage is an ordinary run of the pipeline whose backbone is the patched model of the stage
before. So an interrupted command continues where it stood, and stages may be added at the list's
end.
"""

import logging
import shutil
from itertools import pairwise
from pathlib import Path

from launch.continual.baselines import run_baseline
from launch.continual.revert import delta_path
from launch.continual.stage_recipes import (
    METHOD,
    NAME,
    ContinualStage,
    baseline_stages,
    check_test_suite,
    continual_settings,
    is_made,
    patch_stages,
    write_search_suite,
)
from launch.pipeline.pipeline import Pipeline
from launch.pipeline.stages import STAGES
from launch.pipeline.work import backbone
from launch.recipe import Recipe
from launch.run.folder import HARVEST, MERGED, claim_folder
from launch.run.stage import Stage, always, stage_table
from launch.run.stopping import stop_on_signals
from merge.common.errors import UserError
from merge.common.files import make_directory, read_json
from merge.io.tensor_files import read_index

logger = logging.getLogger(__name__)


def continual(recipe: Recipe) -> Path:
    """Patch, evaluate and take delta files stage by stage, then the baselines; all not yet done.

    Returns:
        The folder of the summary.

    Raises:
        UserError: the recipe does not hold for a stage, before anything is trained; or a stage
            cannot be done, and what was finished before stays.
        StoppedOnRequestError: a signal asked for it; what was finished before stays.
    """
    stages = patch_stages(recipe)
    baselines = {
        name: baseline_stages(recipe, name) for name in continual_settings(recipe).baselines
    }
    base = Pipeline(recipe, {**STAGES, **WHOLE})
    base.claim()
    for preparation in preparations(recipe):
        base.run_unless_done(preparation.name)
    base.run_unless_done(CHECKS.name)
    for stage in stages:
        logger.info("stage %s of SafePatching", stage.settings.name)
        Pipeline(stage.recipe).run()
        with stop_on_signals():
            _write_delta(recipe, stage)
    for name, chain in baselines.items():
        for stage in chain:
            logger.info("stage %s of %s", stage.settings.name, name)
            run_baseline(stage, name)
    base.run_unless_done(SUMMARY.name)
    return recipe.output / NAME


def preparations(recipe: Recipe) -> list[Stage]:
    """What makes backbone and data and is still to be done; nothing once every stage is made."""
    if all(is_made(stage) for chain in _models(recipe) for stage in chain):
        return []
    return [stage for stage in Pipeline(recipe).pending() if stage.prepares]


def prepare_stages(recipe: Recipe) -> None:
    """Give every stage its folder, and see that it has data and prompts: none may fail after hours.

    Raises:
        UserError: naming what is missing or wrong, or what must be deleted.
    """
    from launch.prepare.preflight import check_inputs
    from launch.prepare.text_check import check_data

    data_dir = recipe.evaluation.data_dir
    stages, *baselines = _models(recipe)
    assert recipe.eval is not None
    check_test_suite(stages, recipe.eval.suite, data_dir)
    for stage in stages:
        claim_folder(stage.recipe)
        if is_made(stage):
            continue
        if stage.recipe.search is not None and recipe.search is not None:
            write_search_suite(stage, recipe.search.suite, data_dir)
        # The backbone of a later stage is what the stage before will make.
        (check_inputs if stage is stages[0] else check_data)(stage.recipe)
    for chain in (stages, *baselines):
        _refuse_later(chain)


def conclude(recipe: Recipe) -> None:
    """Write the delta files that are not there yet, and compare all stages."""
    from launch.continual.report import write_summary

    stages = patch_stages(recipe)
    for stage in stages:
        _write_delta(recipe, stage)
    baselines = {
        name: baseline_stages(recipe, name) for name in continual_settings(recipe).baselines
    }
    write_summary(recipe, stages, baselines)
    harvested = recipe.output / HARVEST
    if harvested.exists() and not recipe.keep_intermediates:
        shutil.rmtree(harvested)


def is_concluded(recipe: Recipe) -> bool:
    """Whether the summary is there, of these stages and baselines, and so are the delta files."""
    file = recipe.output / NAME / f"{NAME}.json"
    if not file.is_file():
        return False
    summary, settings = read_json(file), continual_settings(recipe)
    stages = {stage.name: list(stage.categories) for stage in settings.stages}
    same = summary["stages"] == stages and summary["models"].keys() == {METHOD, *settings.baselines}
    return same and all(delta_path(recipe.output, name).is_file() for name in stages)


def _is_checked(recipe: Recipe) -> bool:
    """Whether what waits for the checks is done."""
    return Pipeline(patch_stages(recipe)[0].recipe).is_done("safety")


CHECKS = Stage(
    name="stages",
    needs=tuple(name for name, stage in STAGES.items() if stage.prepares),
    is_wanted=always,
    is_done=_is_checked,
    run=prepare_stages,
    resources="merge",
    repeats=True,
)
SUMMARY = Stage(
    name=NAME,
    needs=(CHECKS.name,),
    is_wanted=always,
    is_done=is_concluded,
    run=conclude,
    resources="merge",
    repeats=True,
)
WHOLE = stage_table(CHECKS, SUMMARY)
"""Stages of a whole continual alignment, beside those of its rounds: one checks them all when
backbone and data are there, one compares them at the end."""


def _models(recipe: Recipe) -> list[list[ContinualStage]]:
    """The stages of each model that is compared: SafePatching's first, then each baseline's."""
    baselines = continual_settings(recipe).baselines
    return [patch_stages(recipe), *(baseline_stages(recipe, name) for name in baselines)]


def _refuse_later(chain: list[ContinualStage]) -> None:
    """See that no stage is made of a model that will be made again.

    Raises:
        UserError: naming the first that is, to be deleted.
    """
    for before, stage in pairwise(chain):
        made = [stage.recipe.output / name for name in (MERGED, "safety/patch.json")]
        if not is_made(before) and any(file.is_file() for file in made):
            raise UserError(
                f"{stage.recipe.output}: was made from the model of stage "
                f"'{before.settings.name}', which is to be made again; delete that folder"
            )


def _write_delta(recipe: Recipe, stage: ContinualStage) -> None:
    """Write what the stage changed, small and good for both directions."""
    from merge.io.delta_file import write_delta_file

    file = delta_path(recipe.output, stage.settings.name)
    if file.is_file():
        return
    make_directory(file.parent)
    changed = write_delta_file(
        file, read_index(backbone(stage.recipe), "model"), read_index(stage.patched, "model")
    )
    logger.info("%s: %d changed values", file, changed)
