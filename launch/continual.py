"""`python -m launch continual`: one patch after another, beside rivals that train on and on.

Every stage is an ordinary run of the pipeline whose backbone is the patched model of the stage
before. So an interrupted command goes on where it stood, and stages may be added at the list's end.
"""

import logging
import shutil
from itertools import pairwise
from pathlib import Path

from launch.continual_report import write_summary
from launch.continual_stages import (
    Stage,
    continual_settings,
    patch_stages,
    rival_stages,
    write_search_suite,
)
from launch.evaluations import Evaluations
from launch.job_record import refuse_beside_jobs
from launch.pipeline import Pipeline
from launch.preflight import check_inputs
from launch.recipe import Recipe
from launch.revert import delta_path
from launch.run_folder import HARVEST, claim_folder
from launch.stopping import stop_on_signals
from launch.text_check import check_data
from merge.errors import UserError
from merge.files import atomic_write_text, make_directory
from merge.journal import RECORD
from merge.recipe import MergeSettings
from merge.resources import MergeResources
from merge.tensor_files import read_index

logger = logging.getLogger(__name__)

COMPLETIONS = "completions.jsonl"
_WHOLE = MergeSettings(method="safety", retention=1, include=("*",))


def continual(recipe: Recipe) -> Path:
    """Patch, evaluate and take delta files stage by stage, then the rivals; whatever is not done.

    Returns:
        The folder of the summary.

    Raises:
        UserError: the recipe does not hold for a stage, before anything is trained; or a stage
            cannot be done, and what was finished before stays.
        StoppedOnRequestError: a signal asked for it; what was finished before stays.
    """
    stages = patch_stages(recipe)
    rivals = {name: rival_stages(recipe, name) for name in continual_settings(recipe).rivals}
    refuse_beside_jobs(recipe.output)
    claim_folder(recipe)
    if not all(_is_made(stage) for way in (stages, *rivals.values()) for stage in way):
        base = Pipeline(recipe)
        for preparation in base.preparations():
            base.run_unless_done(preparation)
    _check_all(recipe, stages)
    for way in (stages, *rivals.values()):
        _refuse_later(way)
    for stage, before in zip(stages, [None, *stages], strict=False):
        logger.info("stage %s of SafePatching", stage.settings.name)
        if before is not None:
            _hand_over_answers(before, stage)
        Pipeline(stage.recipe).run()
        with stop_on_signals():
            _write_delta(recipe, stage)
    for name, path in rivals.items():
        for stage in path:
            logger.info("stage %s of %s", stage.settings.name, name)
            _run_rival(stage, name)
    with stop_on_signals():
        folder = write_summary(recipe, stages, rivals)
    harvested = recipe.output / HARVEST
    if harvested.exists() and not recipe.keep_intermediates:
        shutil.rmtree(harvested)
    return folder


def _is_made(stage: Stage) -> bool:
    return (stage.patched / RECORD).is_file()


def _check_all(recipe: Recipe, stages: list[Stage]) -> None:
    """See that every stage has its folder, data and prompts: none may fail after hours."""
    data_dir = recipe.eval.data_dir if recipe.eval else None
    for stage in stages:
        claim_folder(stage.recipe)
        if _is_made(stage):
            continue
        if stage.recipe.search is not None and recipe.search is not None:
            write_search_suite(stage, recipe.search.suite, data_dir)
        # The backbone of a later stage is what the stage before will make.
        (check_inputs if stage is stages[0] else check_data)(stage.recipe)


def _refuse_later(way: list[Stage]) -> None:
    """See that no stage is made of a model that will be made again.

    Raises:
        UserError: naming the first that is, to be deleted.
    """
    for before, stage in pairwise(way):
        made = [stage.patched / RECORD, stage.recipe.output / "safety" / "patch.json"]
        if not _is_made(before) and any(file.is_file() for file in made):
            raise UserError(
                f"{stage.recipe.output}: was made from the model of stage "
                f"'{before.settings.name}', which is to be made again; delete that folder"
            )


def _hand_over_answers(before: Stage, stage: Stage) -> None:
    """Spare the evaluation of a stage's backbone, which answered as the stage before's result.

    Answers are known by the hash of the weights, so none can be taken for another model's.
    """
    found = before.recipe.output / "eval" / "safepatching" / COMPLETIONS
    wanted = stage.recipe.output / "eval" / "backbone" / COMPLETIONS
    if found.is_file() and not wanted.exists():
        make_directory(wanted.parent)
        atomic_write_text(wanted, found.read_text(encoding="utf-8"))


def _write_delta(recipe: Recipe, stage: Stage) -> None:
    """Write what the stage changed, small and good for both directions."""
    from merge.delta_file import write_delta_file

    file = delta_path(recipe.output, stage.settings.name)
    if file.is_file():
        return
    make_directory(file.parent)
    changed = write_delta_file(
        file, read_index(_backbone(stage), "model"), read_index(stage.patched, "model")
    )
    logger.info("%s: %d changed values", file, changed)


def _run_rival(stage: Stage, name: str) -> None:
    """Train one stage of a rival, and evaluate the trained model as it is."""
    claim_folder(stage.recipe)
    patch = stage.recipe.output / "safety"
    if not _is_made(stage):
        Pipeline(stage.recipe).run_unless_done("safety")
        from merge.build import build

        with stop_on_signals():
            # The one patch stands for both: this method merges no other.
            build(_backbone(stage), patch, patch, stage.patched, _WHOLE, MergeResources())
    if patch.exists() and not stage.recipe.keep_intermediates:
        shutil.rmtree(patch)
    with stop_on_signals():
        Evaluations(stage.recipe, _backbone(stage)).evaluate(name, stage.patched)


def _backbone(stage: Stage) -> Path:
    from train.backbone import backbone_directory

    return backbone_directory(stage.recipe.backbone)
