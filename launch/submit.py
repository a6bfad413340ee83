"""`python -m launch submit`: a run's stages as jobs that wait for one another."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launch import slurm
from launch.cluster import ClusterSettings
from launch.first_patch import prepare_first
from launch.job_container import input_folders
from launch.job_record import (
    active_jobs,
    read_jobs,
    record_jobs,
    refuse_active,
    replace_jobs,
)
from launch.job_scripts import RunPlace, render_stage, render_summary
from launch.pipeline import Pipeline
from launch.rank import JOBS_FOLDER
from launch.recipe import Recipe
from launch.run_folder import claim_folder
from launch.sbatch_options import refuse_unknown
from launch.seeds import seed_folder, seed_recipes
from launch.stages import StageName, needs_of
from merge.errors import UserError
from merge.files import atomic_write_text, make_directory
from train.recipe import load_recipe

SUMMARY = "seeds"


@dataclass(frozen=True)
class Chain:
    """The stages to submit, of one run or of one for each seed."""

    name: str
    settings: ClusterSettings
    place: RunPlace
    recipes: list[Recipe]
    array: str | None
    """Which seeds, and how many at once."""

    def runs(self) -> list[Path]:
        """The folders that record its jobs."""
        return list(dict.fromkeys([self.place.folder, *(each.output for each in self.recipes)]))

    def stages(self) -> list[StageName]:
        """Those that are not done, in some seed."""
        pipelines = [Pipeline(recipe) for recipe in self.recipes]
        return [
            stage
            for stage in pipelines[0].stages()
            if not all(pipeline.is_done(stage) for pipeline in pipelines)
        ]

    def scripts(self) -> dict[str, str]:
        """Stage -> its script."""
        place = self.place
        if self.settings.container is not None:
            folders = input_folders(self.recipes[0], self.settings.variables())
            place = replace(place, inputs=folders)
        scripts: dict[str, str] = {
            stage: render_stage(stage, self.name, self.settings, place) for stage in self.stages()
        }
        if self.array is not None:
            scripts[SUMMARY] = render_summary(self.name, self.settings, self.place)
        return scripts


def plan_chain(
    recipe: Path, overrides: Sequence[str], seeds: int | None, at_once: int | None
) -> Chain:
    """What a submission would do.

    Args:
        seeds: run the seeds 0, 1, ... as job arrays; ``None`` runs the recipe's own alone.
        at_once: how many tasks of an array may run at the same time; ``None`` sets no bound.

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
    settings = recipes[0].cluster
    if settings is None:
        raise UserError(
            f"recipe {recipe}: has no cluster part; add one, as in 'cluster: {{partition: gpu, "
            "nodes: 1, gpus_per_node: 8}'"
        )
    refuse_unknown(settings.extras())
    place = RunPlace(folder.resolve(), seeds=seeds is not None)
    return Chain(recipes[0].name, settings, place, recipes, array)


def submit(chain: Chain) -> dict[str, str]:
    """Write the scripts and queue them.

    Returns:
        Stage -> job id; empty where all is done.

    Raises:
        UserError: an input is missing, jobs of this run are queued already, or SLURM refuses one
            of the jobs; then those before it are cancelled.
    """
    folder = chain.place.folder
    refuse_active(folder)
    # What is downloaded here is looked for there.
    os.environ.update({k: v for k, v in chain.settings.env.items() if k.startswith("HF_")})
    for recipe in chain.recipes:
        claim_folder(recipe)
        pipeline = Pipeline(recipe)
        if not pipeline.preparations():
            pipeline.check()
        if "over_safety_first" in chain.stages():
            prepare_first(recipe)
        make_directory(recipe.output / JOBS_FOLDER)
        for file in (recipe.output / JOBS_FOLDER).glob("*.failures"):
            file.unlink()
    make_directory(folder / JOBS_FOLDER)
    before = {run: read_jobs(run) for run in chain.runs()}
    jobs: dict[str, str] = {}
    try:
        _queue(chain, jobs)
    except BaseException as error:
        words = _take_back(before, jobs)
        if words and isinstance(error, UserError):
            raise UserError(f"{error}; {words}") from None
        raise
    return jobs


def _queue(chain: Chain, jobs: dict[str, str]) -> None:
    """Queue all stages; ``jobs`` holds at any time those that are."""
    stages = chain.stages()
    for stage, text in (chain.scripts() if stages else {}).items():
        file = chain.place.folder / JOBS_FOLDER / f"{stage}.sbatch"
        atomic_write_text(file, text, mode=0o755)
        if stage == SUMMARY:
            array, dependency = None, f"afterok:{jobs[stages[-1]]}"
        else:
            array = chain.array
            before = needs_of(stage, chain.recipes[0])  # pyright: ignore
            dependency = _dependency(before, jobs, "aftercorr" if array else "afterok")
        jobs[stage] = slurm.submit(file, dependency, array)
        # At once: a submission that is killed here can be cancelled.
        _record(chain, stage, jobs[stage])


def _take_back(before: dict[Path, dict[str, str]], jobs: dict[str, str]) -> str:
    """Cancel the jobs of a chain that is not whole; returns what became of them.

    Args:
        before: by run folder the jobs that were recorded before.
    """
    if not jobs:
        return ""
    ids = list(jobs.values())
    try:
        slurm.cancel(ids)
    except UserError as error:
        return f"the jobs before it stay queued ({error}): end them by 'scancel {' '.join(ids)}'"
    for run, recorded in before.items():
        replace_jobs(run, recorded)
    return f"the jobs before it ({', '.join(ids)}) were cancelled"


def _dependency(stages: Sequence[StageName], jobs: dict[str, str], kind: str) -> str | None:
    """On all of the stages' jobs that are submitted."""
    before = [jobs[stage] for stage in stages if stage in jobs]
    return ":".join([kind, *before]) if before else None


def _record(chain: Chain, stage: str, job: str) -> None:
    if chain.array is None or stage == SUMMARY:
        record_jobs(chain.place.folder, {stage: job})
        return
    for seed in range(len(chain.recipes)):
        record_jobs(seed_folder(chain.place.folder, seed), {stage: f"{job}_{seed}"})


def cancel(folder: Path) -> list[str]:
    """End all jobs of a run, or of all its seeds; returns their ids."""
    jobs = list(active_jobs(folder))
    if jobs:
        slurm.cancel(jobs)
    return jobs
