"""The jobs of a run: of one recipe, or of one for each seed; with its ablation where wanted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launch.ablation.patches import WORK, missing_patches, prepare
from launch.ablation.variants import WholePatch
from launch.prepare.first_patch import prepare_first
from launch.recipe import Recipe
from launch.run.folder import ABLATION, ABLATION_RECORD, RECIPE, claim_folder
from launch.run.pipeline import Pipeline
from launch.run.stages import StageName, needs_of, stages_of
from launch.slurm.batch_scripts.job_container import input_folders
from launch.slurm.batch_scripts.stage_scripts import (
    TRAININGS,
    WORKERS,
    RunPlace,
    Training,
    render_stage,
    render_summary,
    render_training,
    render_workers,
)
from launch.slurm.chain import Job
from launch.slurm.rank import JOBS_FOLDER
from launch.slurm.settings import ClusterSettings

SUMMARY = "seeds"


@dataclass(frozen=True)
class Site:
    """Where the jobs of one run folder, or of those of all seeds, are.

    Attributes:
        name: of the run.
        prefix: of the jobs' names in the chain.
        before: what all of them wait for, beside one another.
        array: which seeds, and how many at once.
    """

    name: str
    settings: ClusterSettings
    place: RunPlace
    runs: Sequence[Path]
    prefix: str = ""
    before: Sequence[str] = ()
    array: str | None = None

    def job(self, name: str, script: str, after: Sequence[str] = (), trains: bool = False) -> Job:
        """A job, or an array of one for each seed."""
        return Job(
            name=f"{self.prefix}{name}",
            file=self.place.folder / JOBS_FOLDER / f"{name}.sbatch",
            script=script,
            tasks=[(run, name) for run in self.runs],
            after=[*self.before, *(f"{self.prefix}{other}" for other in after)],
            array=self.array,
            corresponding=self.array is not None,
            trains=trains,
        )


def stage_jobs(recipe: Recipe, stages: Sequence[StageName], site: Site) -> Iterator[Job]:
    """The jobs of a run's stages; ahead of the search, where they are wanted, those of its workers.

    Args:
        stages: those that are not done, in order.
    """
    for stage in stages:
        needs = needs_of(stage, recipe)
        apart = stage == "search" and workers_apart(recipe, site)
        if apart:
            yield _workers(recipe, needs, site)
        # The last of its processes does what the workers have left.
        changes = "search.workers=1" if apart else ""
        script = render_stage(stage, site.name, site.settings, site.place, changes)
        job = site.job(stage, script, needs, stage in TRAININGS)
        yield replace(job, over=[f"{site.prefix}{WORKERS}"]) if apart else job


def workers_apart(recipe: Recipe, site: Site) -> bool:
    """Whether the workers of a search are jobs of their own; seeds are an array already."""
    shared = recipe.search is not None and recipe.search.workers > 1
    return shared and site.settings.search_array and site.array is None


def _workers(recipe: Recipe, needs: Sequence[str], site: Site) -> Job:
    assert recipe.search is not None
    script = render_workers(site.name, site.settings, site.place)
    (run,) = site.runs
    workers = recipe.search.workers
    return replace(
        site.job(WORKERS, script, needs),
        tasks=[(run, f"search.{number}") for number in range(workers)],
        array=f"0-{workers - 1}",
    )


@dataclass(frozen=True)
class RunChain:
    """The stages to submit, of one run or of one for each seed."""

    name: str
    settings: ClusterSettings
    place: RunPlace
    recipes: list[Recipe]
    array: str | None
    """Which seeds, and how many at once."""
    ablate: bool = False

    @property
    def folder(self) -> Path:
        """The run folder, or the one that holds those of all seeds."""
        return self.place.folder

    def runs(self) -> list[Path]:
        """The folders that record its jobs."""
        return list(dict.fromkeys([self.folder, *(each.output.resolve() for each in self.recipes)]))

    def claim(self) -> None:
        """As ``Chain``."""
        for recipe in self.recipes:
            claim_folder(recipe)
            pipeline = Pipeline(recipe)
            if not pipeline.preparations():
                pipeline.check()
        stages = self._stages()
        for recipe in self.recipes:
            if "over_safety_first" in stages:
                prepare_first(recipe)
            if ABLATION in stages:
                for patch in missing_patches(recipe):
                    prepare(recipe, patch)

    def jobs(self) -> list[Job]:
        """As ``Chain``."""
        place = self.place
        if self.settings.container is not None:
            folders = input_folders(self.recipes[0], self.settings.variables())
            place = replace(place, inputs=folders)
        runs = [recipe.output.resolve() for recipe in self.recipes]
        site = Site(self.name, self.settings, place, runs, array=self.array)
        stages = self._stages()
        baselines = list(self._baselines(site)) if ABLATION in stages else []
        jobs: list[Job] = []
        for job in stage_jobs(self.recipes[0], stages, site):
            if job.name == ABLATION:
                jobs += baselines
                job = replace(job, after=[*job.after, *(baseline.name for baseline in baselines)])
            jobs.append(job)
        if self.array is not None and jobs:
            jobs.append(self._summary([job.name for job in jobs[-1:]]))
        return jobs

    def _stages(self) -> list[StageName]:
        """Those that are not done, in some seed."""
        pipelines = [Pipeline(recipe) for recipe in self.recipes]
        return [
            stage
            for stage in stages_of(self.recipes[0], self.ablate)
            if not all(pipeline.is_done(stage) for pipeline in pipelines)
        ]

    def _baselines(self, site: Site) -> Iterator[Job]:
        """The trainings of an ablation."""
        found: dict[str, WholePatch] = {}
        for recipe in self.recipes:
            found |= {patch.name: patch for patch in missing_patches(recipe)}
        for patch in found.values():
            name, folder = f"{ABLATION}.{patch.name}", f"{WORK}/{patch.name}"
            results = (f"{ABLATION}/{ABLATION_RECORD}", f"{folder}/{patch.role}/patch.json")
            training = Training(f"{folder}/{RECIPE}", patch.role, results)
            script = render_training(name, site.name, site.settings, site.place, training)
            yield site.job(name, script, needs_of(patch.role, self.recipes[0]), trains=True)

    def _summary(self, last: Sequence[str]) -> Job:
        """The means over seeds."""
        script = render_summary(self.name, self.settings, self.place)
        return Job(
            name=SUMMARY,
            file=self.folder / JOBS_FOLDER / f"{SUMMARY}.sbatch",
            script=script,
            tasks=[(self.folder, SUMMARY)],
            after=last,
        )
