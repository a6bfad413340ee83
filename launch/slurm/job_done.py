"""Whether what a job was for is done, whatever kind of job it is."""

from typing import cast, get_args

from launch.ablation.patches import WORK
from launch.continual.continual import is_concluded
from launch.continual.stage_recipes import patch_stages
from launch.recipe import Recipe
from launch.run.done import is_done
from launch.run.folder import ABLATION
from launch.run.stages import CHECKS, SUMMARY, StageName


def job_is_done(recipe: Recipe, name: str, baseline: str | None = None) -> bool:
    """Whether a run folder holds what a job of it was for.

    Args:
        recipe: of that folder.
        name: a stage, or a part of one as ``search.0``.
        baseline: whose run it is, where it is one of a continual alignment.
    """
    folder = recipe.output
    if baseline is not None and name == "evaluate":
        return (folder / "eval" / baseline / "summary.json").is_file()
    if name == SUMMARY:
        return is_concluded(recipe)
    if name == CHECKS:
        return is_done(patch_stages(recipe)[0].recipe, "safety")  # which waits for it
    stage, _, part = name.partition(".")
    if stage == ABLATION and part and any((folder / WORK / part).glob("*/patch.json")):
        return True
    return stage in get_args(StageName) and is_done(recipe, cast("StageName", stage))
