"""The jobs of a run: of one recipe, or of one for each seed; with its ablation where wanted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launch.pipeline.pipeline import Pipeline
from launch.recipe import Recipe
from launch.run.folder import claim_folder
from launch.run.stage import Stage, StageTable, Training
from launch.slurm.batch_scripts.job_container import input_folders
from launch.slurm.batch_scripts.stage_scripts import (
    OWN_RECIPE,
    RunPlace,
    render_stage,
    render_summary,
    render_workers,
)
from launch.slurm.chain import Job
from launch.slurm.queue.job_files import JOBS_FOLDER
from launch.slurm.system.settings import ClusterSettings

SUMMARY = "seeds"


@dataclass(frozen=True)
class Site:
    """Where the jobs of one run folder, or of those of all seeds, are.

    Attributes:
        name: of the run.
        recipes: of the run folders.
        prefix: of the jobs' names in the chain.
        before: what all of them wait for, beside one another.
        array: which seeds, and how many at once.
        recipe_file: what the jobs read, as a word of a shell script.
        options: of ``launch stage`` in the jobs, as words of a shell script.
    """

    name: str
    settings: ClusterSettings
    place: RunPlace
    recipes: Sequence[Recipe]
    prefix: str = ""
    before: Sequence[str] = ()
    array: str | None = None
    recipe_file: str = OWN_RECIPE
    options: str = ""

    def job(self, stage: Stage, changes: str = "") -> Job:
        """The job of a stage, or an array of one for each seed.

        Args:
            changes: of the recipe for this job, as ``key=value``.
        """
        words = " ".join(filter(None, (self.options, changes)))
        script = render_stage(stage, self.name, self.settings, self.place, words, self.recipe_file)
        needs = stage.needs_of(self.recipes[0])
        return Job(
            name=f"{self.prefix}{stage.name}",
            file=self._file(stage.name),
            script=script,
            tasks=[(run, stage.name) for run in self.runs()],
            after=[*self.before, *(f"{self.prefix}{other}" for other in needs)],
            array=self.array,
            corresponding=self.array is not None,
            trains=isinstance(stage.run, Training),
        )

    def workers(self, stage: Stage) -> Job:
        """The array of jobs that share the work of a stage."""
        workers = stage.workers(self.recipes[0])
        (run,) = self.runs()
        return replace(
            self.job(stage),
            name=f"{self.prefix}{stage.name}.workers",
            file=self._file(f"{stage.name}.workers"),
            script=render_workers(stage, self.name, self.settings, self.place),
            tasks=[(run, worker.name) for worker in workers],
            array=f"0-{len(workers) - 1}",
        )

    def runs(self) -> list[Path]:
        """The run folders."""
        return [recipe.output.resolve() for recipe in self.recipes]

    def _file(self, name: str) -> Path:
        return self.place.folder / JOBS_FOLDER / f"{name}.sbatch"


def stage_jobs(stages: Sequence[Stage], site: Site) -> Iterator[Job]:
    """The jobs of a run's stages; ahead of each those of its parts, and of its workers.

    Args:
        stages: those that are not done, in order.
    """
    for stage in stages:
        parts = [site.job(part) for part in pending_parts(stage, site.recipes)]
        yield from parts
        shared = site.settings.search_array and len(stage.workers(site.recipes[0])) > 1
        if shared and site.array is None:  # seeds are an array already
            workers = site.workers(stage)
            yield workers
            # The last of its processes does what the workers have left.
            job = replace(site.job(stage, f"{stage.name}.workers=1"), over=[workers.name])
        else:
            job = site.job(stage)
        yield replace(job, after=[*job.after, *(part.name for part in parts)])


def pending_parts(stage: Stage, recipes: Sequence[Recipe]) -> list[Stage]:
    """The parts of a stage that are not done, in some seed."""
    parts = {part.name: part for recipe in recipes for part in _parts_of(stage, recipe)}
    return list(parts.values())


def _parts_of(stage: Stage, recipe: Recipe) -> list[Stage]:
    return [part for part in stage.parts(recipe) if not part.is_done(recipe)]


@dataclass(frozen=True)
class RunChain:
    """The stages to submit, of one run or of one for each seed."""

    name: str
    settings: ClusterSettings
    place: RunPlace
    recipes: list[Recipe]
    array: str | None
    """Which seeds, and how many at once."""
    table: StageTable
    """The stages that there may be."""

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
        for recipe in self.recipes:
            for stage in Pipeline(recipe, self.table).pending():
                for each in (stage, *_parts_of(stage, recipe)):
                    if isinstance(each.run, Training) and each.run.prepare is not None:
                        each.run.prepare(recipe)

    def jobs(self) -> list[Job]:
        """As ``Chain``."""
        place = self.place
        if self.settings.container is not None:
            folders = input_folders(self.recipes[0], self.settings.variables())
            place = replace(place, inputs=folders)
        site = Site(self.name, self.settings, place, self.recipes, array=self.array)
        jobs = list(stage_jobs(self._stages(), site))
        if self.array is not None and jobs:
            jobs.append(self._summary([job.name for job in jobs[-1:]]))
        return jobs

    def _stages(self) -> list[Stage]:
        """Those that are not done, in some seed."""
        pending = {
            stage.name
            for recipe in self.recipes
            for stage in Pipeline(recipe, self.table).pending()
        }
        return [stage for name, stage in self.table.items() if name in pending]

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
