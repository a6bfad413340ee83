"""`python -m launch submit`: a run's stages as jobs that wait for one another."""

import os
from collections.abc import Sequence
from pathlib import Path

from launch.pipeline.stages import STAGES
from launch.recipe import Recipe
from launch.run.folder import refuse_busy
from launch.run.seeds import seed_recipes
from launch.run.stage import without_unasked
from launch.run.variant_list import check_ablation
from launch.slurm.batch_scripts.stage_scripts import RunPlace
from launch.slurm.chain import Chain, Job
from launch.slurm.continual_chain import ContinualChain
from launch.slurm.queue.job_files import JOBS_FOLDER
from launch.slurm.queue.job_record import (
    active_jobs,
    read_jobs,
    record_jobs,
    refuse_active,
    replace_jobs,
)
from launch.slurm.run_chain import RunChain
from launch.slurm.system import client as slurm
from launch.slurm.system.sbatch_options import refuse_unknown
from launch.slurm.system.settings import ClusterSettings
from merge.common.errors import UserError
from merge.common.files import atomic_write_text, make_directory
from train.recipe import load_recipe


def plan_chain(
    recipe: Path,
    overrides: Sequence[str],
    seeds: int | None = None,
    at_once: int | None = None,
    ablate: bool = False,
) -> RunChain:
    """What the submission of a run would do.

    Args:
        seeds: run the seeds 0, 1, ... as job arrays; ``None`` runs the recipe's own alone.
        at_once: how many tasks of an array may run at the same time; ``None`` sets no bound.
        ablate: with its ablation.

    Raises:
        UserError: the recipe has a mistake, or no cluster part.
    """
    if seeds is None:
        recipes = [load_recipe(recipe, overrides, Recipe)]
        folder = recipes[0].output
        array = None
    else:
        folder, recipes = seed_recipes(recipe, overrides, seeds)
        array = f"0-{seeds - 1}" + (f"%{at_once}" if at_once else "")
    if ablate:
        check_ablation(recipes[0])
    settings = _settings(recipe, recipes[0])
    place = RunPlace(folder.resolve(), seeds=seeds is not None)
    table = STAGES if ablate else without_unasked(STAGES)
    return RunChain(recipes[0].name, settings, place, recipes, array, table)


def plan_continual(recipe: Path, overrides: Sequence[str]) -> ContinualChain:
    """What the submission of a continual alignment would do.

    Raises:
        UserError: the recipe has a mistake, no cluster part, or no stages.
    """
    loaded = load_recipe(recipe, overrides, Recipe)
    return ContinualChain(loaded, _settings(recipe, loaded), loaded.output.resolve())


def _settings(file: Path, recipe: Recipe) -> ClusterSettings:
    if recipe.cluster is None:
        raise UserError(
            f"recipe {file}: has no cluster part; add one, as in 'cluster: {{partition: gpu, "
            "nodes: 1, gpus_per_node: 8}'"
        )
    if recipe.cluster.search_array and (recipe.search is None or recipe.search.workers == 1):
        raise UserError(
            f"recipe {file}: cluster.search_array makes jobs of a search's workers; set "
            "search.workers to 2 or more, or leave it out"
        )
    refuse_unknown(recipe.cluster.extras())
    return recipe.cluster


def submit(chain: Chain) -> dict[str, str]:
    """Write the scripts and queue them.

    Returns:
        Job's name -> its id; empty where all is done.

    Raises:
        UserError: an input is missing, jobs of this run are queued already, a command is at work
            in its folder, or SLURM refuses one of the jobs; then those before it are cancelled.
    """
    refuse_active(chain.folder)
    for run in chain.runs():
        refuse_busy(run)
    # What is downloaded here is looked for there.
    os.environ.update({k: v for k, v in chain.settings.env.items() if k.startswith("HF_")})
    chain.claim()
    for run in chain.runs():
        make_directory(run / JOBS_FOLDER)
        for file in (run / JOBS_FOLDER).glob("*.failures"):
            file.unlink()
    before = {run: read_jobs(run) for run in chain.runs()}
    ids: dict[str, str] = {}
    try:
        for job in chain.jobs():
            _queue(job, ids)
    except BaseException as error:
        words = _take_back(before, ids)
        if words and isinstance(error, UserError):
            raise UserError(f"{error}; {words}") from None
        raise
    return ids


def _queue(job: Job, ids: dict[str, str]) -> None:
    """Queue one job; ``ids`` holds at any time those that are queued."""
    atomic_write_text(job.file, job.script, mode=0o755)
    ids[job.name] = slurm.submit(job.file, job.dependency(ids), job.array)
    # At once: a submission that is killed here can be cancelled.
    for run, name, number in job.recorded(ids[job.name]):
        record_jobs(run, {name: number})


def _take_back(before: dict[Path, dict[str, str]], ids: dict[str, str]) -> str:
    """Cancel the jobs of a chain that is not whole; returns what became of them.

    Args:
        before: by run folder the jobs that were recorded before.
    """
    if not ids:
        return ""
    numbers = list(ids.values())
    try:
        slurm.cancel(numbers)
    except UserError as error:
        return (
            f"the jobs before it stay queued ({error}): end them by 'scancel {' '.join(numbers)}'"
        )
    for run, recorded in before.items():
        replace_jobs(run, recorded)
    return f"the jobs before it ({', '.join(numbers)}) were cancelled"


def cancel(folder: Path) -> list[str]:
    """End all jobs of a run, or of all its seeds or stages; returns their ids."""
    jobs = list(active_jobs(folder))
    if jobs:
        slurm.cancel(jobs)
    return jobs
