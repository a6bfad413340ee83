"""`python -m launch continual`: one patch after another, beside baselines that train on and on.

Every stage is an ordinary run of the pipeline whose backbone is the patched model of the stage
before. So an interrupted command goes on where it stood, and stages may be added at the list's end.
"""

import logging
import shutil
from itertools import pairwise
from pathlib import Path

from launch.continual.baselines import BASELINE_STAGES, run_baseline
from launch.continual.revert import delta_path
from launch.continual.stage_recipes import (
    METHOD,
    NAME,
    Stage,
    baseline_stages,
    continual_settings,
    is_made,
    patch_stages,
    write_search_suite,
)
from launch.recipe import Recipe
from launch.run.folder import HARVEST, claim_folder, holding
from launch.run.pipeline import Pipeline
from launch.run.stages import StageName
from launch.run.stopping import stop_on_signals
from launch.slurm.job_record import refuse_beside_jobs
from merge.common.errors import UserError
from merge.common.files import make_directory, read_json
from merge.engine.journal import RECORD
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
    refuse_beside_jobs(recipe.output)
    claim_folder(recipe)
    base = Pipeline(recipe)
    for preparation in preparations(recipe):
        base.run_unless_done(preparation)
    prepare_stages(recipe)
    for stage in stages:
        logger.info("stage %s of SafePatching", stage.settings.name)
        Pipeline(stage.recipe).run()
        with stop_on_signals():
            _write_delta(recipe, stage)
    for name, way in baselines.items():
        for stage in way:
            logger.info("stage %s of %s", stage.settings.name, name)
            for part in BASELINE_STAGES:
                run_baseline(stage, name, part)
    return conclude(recipe)


def preparations(recipe: Recipe) -> list[StageName]:
    """What makes backbone and data and is still to be done; nothing once every stage is made."""
    if all(is_made(stage) for way in _ways(recipe) for stage in way):
        return []
    base = Pipeline(recipe)
    return [stage for stage in base.preparations() if not base.is_done(stage)]


def prepare_stages(recipe: Recipe) -> None:
    """Give every stage its folder, and see that it has data and prompts: none may fail after hours.

    Raises:
        UserError: naming what is missing or wrong, or what must be deleted.
    """
    from launch.prepare.preflight import check_inputs
    from launch.prepare.text_check import check_data

    data_dir = recipe.evaluation.data_dir
    stages, *baselines = _ways(recipe)
    for stage in stages:
        claim_folder(stage.recipe)
        if is_made(stage):
            continue
        if stage.recipe.search is not None and recipe.search is not None:
            write_search_suite(stage, recipe.search.suite, data_dir)
        # The backbone of a later stage is what the stage before will make.
        (check_inputs if stage is stages[0] else check_data)(stage.recipe)
    for way in (stages, *baselines):
        _refuse_later(way)


def conclude(recipe: Recipe) -> Path:
    """Write the delta files that are not there yet, and compare all stages.

    Returns:
        The folder of the summary.
    """
    from launch.continual.report import write_summary

    stages = patch_stages(recipe)
    with holding(recipe.output, NAME), stop_on_signals():
        for stage in stages:
            _write_delta(recipe, stage)
        baselines = {
            name: baseline_stages(recipe, name) for name in continual_settings(recipe).baselines
        }
        folder = write_summary(recipe, stages, baselines)
    harvested = recipe.output / HARVEST
    if harvested.exists() and not recipe.keep_intermediates:
        shutil.rmtree(harvested)
    return folder


def is_concluded(recipe: Recipe) -> bool:
    """Whether the summary is there, of these stages and baselines, and so are the delta files."""
    file = recipe.output / NAME / f"{NAME}.json"
    if not file.is_file():
        return False
    summary, settings = read_json(file), continual_settings(recipe)
    stages = {stage.name: list(stage.categories) for stage in settings.stages}
    same = summary["stages"] == stages and summary["models"].keys() == {METHOD, *settings.baselines}
    return same and all(delta_path(recipe.output, name).is_file() for name in stages)


def _ways(recipe: Recipe) -> list[list[Stage]]:
    """SafePatching's stages, and each baseline's."""
    baselines = continual_settings(recipe).baselines
    return [patch_stages(recipe), *(baseline_stages(recipe, name) for name in baselines)]


def _refuse_later(way: list[Stage]) -> None:
    """See that no stage is made of a model that will be made again.

    Raises:
        UserError: naming the first that is, to be deleted.
    """
    for before, stage in pairwise(way):
        made = [stage.patched / RECORD, stage.recipe.output / "safety" / "patch.json"]
        if not is_made(before) and any(file.is_file() for file in made):
            raise UserError(
                f"{stage.recipe.output}: was made from the model of stage "
                f"'{before.settings.name}', which is to be made again; delete that folder"
            )


def _write_delta(recipe: Recipe, stage: Stage) -> None:
    """Write what the stage changed, small and good for both directions."""
    from merge.io.delta_file import write_delta_file

    file = delta_path(recipe.output, stage.settings.name)
    if file.is_file():
        return
    make_directory(file.parent)
    changed = write_delta_file(
        file, read_index(stage.backbone(), "model"), read_index(stage.patched, "model")
    )
    logger.info("%s: %d changed values", file, changed)
