"""`python -m launch revert`: take back the last stages of continual alignment, bit for bit."""

import logging
import shutil
from pathlib import Path

from launch.continual.stage_recipes import patch_stages
from launch.recipe import Recipe
from launch.run.folder import RECIPE
from merge.common.errors import UserError
from merge.common.files import make_directory
from train.recipe import load_recipe

logger = logging.getLogger(__name__)

BACKBONE = "backbone"


def delta_path(run: Path, stage: str) -> Path:
    """Where a run keeps the delta file of a stage."""
    return run / "deltas" / f"{stage}.safepatch"


def revert(run: Path, to: str, out: Path, model: Path | None = None) -> None:
    """Write the model as it was after stage ``to``, by the later stages' delta files alone.

    Args:
        run: the folder of a continual run; its models need not be there any more.
        to: a stage, or ``backbone`` for what was before the first.
        model: the model after the last stage; by default the run's own.

    Raises:
        UserError: no such run or stage, a delta file is missing, the model is not the last
            stage's, or ``out`` cannot be written.
    """
    from merge.apply import apply_delta

    if not (run / RECIPE).is_file():
        raise UserError(f"{run}: holds no {RECIPE}; give the folder of a continual run")
    stages = patch_stages(load_recipe(run / RECIPE, [], Recipe))
    names = [BACKBONE, *(stage.settings.name for stage in stages)]
    if to not in names[:-1]:
        raise UserError(
            f"--to {to}: is no stage that has others after it; choose one of "
            f"{', '.join(names[:-1])}"
        )
    files = [delta_path(run, name) for name in reversed(names[names.index(to) + 1 :])]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise UserError(f"{run}: has no {missing[0]}; run python -m launch continual to its end")
    source = model or stages[-1].patched
    steps = [out.with_name(f".{out.name}.{number}") for number in range(1, len(files))]
    make_directory(out.parent)
    try:
        for file, target in zip(files, [*steps, out], strict=True):
            if target != out:
                # What an earlier attempt has left; the output itself is not ours to delete.
                shutil.rmtree(target, ignore_errors=True)
            apply_delta(source, file, target)
            logger.info("%s: taken back", file.stem)
            source = target
        logger.info("%s: holds the model as it was after stage %s", out, to)
    finally:
        for step in steps:
            shutil.rmtree(step, ignore_errors=True)
