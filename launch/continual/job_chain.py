"""The jobs of a continual alignment: the chain of each stage after that of the stage before."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launch.continual.baselines import BASELINE_STAGES, BaselineStage, baseline_is_done
from launch.continual.continual import is_concluded, preparations, prepare_stages
from launch.continual.stage_recipes import Stage, baseline_stages, continual_settings, patch_stages
from launch.recipe import Recipe
from launch.run.folder import RECIPE, claim_folder
from launch.run.pipeline import Pipeline
from launch.run.stages import CHECKS, SUMMARY, StageName
from launch.slurm.batch_scripts.job_container import input_folders
from launch.slurm.batch_scripts.stage_scripts import (
    TRAININGS,
    RunPlace,
    render_single,
    render_stage,
)
from launch.slurm.chain import Job
from launch.slurm.run_chain import Site, stage_jobs
from launch.slurm.settings import ClusterSettings, StageResources

_BASELINE_NEEDS: dict[BaselineStage, tuple[BaselineStage, ...]] = {
    "openings": (),
    "safety": ("openings",),
    "merge": ("safety",),
    "evaluate": ("merge",),
}


@dataclass(frozen=True)
class ContinualChain:
    """All stages, and those of the baselines beside them; each in its own run folder."""

    recipe: Recipe
    settings: ClusterSettings
    folder: Path

    def runs(self) -> list[Path]:
        """The folders that record its jobs."""
        ways = (patch_stages(self.recipe), *self._baselines().values())
        return [self.folder, *(_run(stage) for way in ways for stage in way)]

    def claim(self) -> None:
        """As ``Chain``; where backbone or data are still to be made, their job checks the rest."""
        claim_folder(self.recipe)
        if not preparations(self.recipe):
            prepare_stages(self.recipe)
        for way in (patch_stages(self.recipe), *self._baselines().values()):
            for stage in way:
                claim_folder(stage.recipe)

    def jobs(self) -> list[Job]:
        """As ``Chain``."""
        jobs = list(self._preparations())
        before = [job.name for job in jobs[-1:]]
        last = list(before)
        for stage in patch_stages(self.recipe):
            jobs += self._stage(stage, last)
            last = [*before, *(f"stages/{stage.settings.name}/{n}" for n in ("merge", "evaluate"))]
        for baseline, way in self._baselines().items():
            last = list(before)
            for stage in way:
                jobs += self._baseline(stage, baseline, last)
                last = [*before, f"baselines/{baseline}/{stage.settings.name}/merge"]
        if jobs or not is_concluded(self.recipe):
            site = self._site(self.recipe.name, self.folder, "", [])
            jobs.append(site.job(SUMMARY, self._whole(SUMMARY), [job.name for job in jobs]))
        return jobs

    def _preparations(self) -> Iterator[Job]:
        """What makes backbone and data, and then what checks the stages."""
        pending = preparations(self.recipe)
        site = self._site(self.recipe.name, self.folder, "", [])
        yield from stage_jobs(self.recipe, pending, site)
        if pending:
            yield site.job(CHECKS, self._whole(CHECKS), pending)

    def _stage(self, stage: Stage, before: Sequence[str]) -> Iterator[Job]:
        name = stage.settings.name
        pipeline = Pipeline(stage.recipe)
        pending: list[StageName] = [
            each for each in pipeline.stages() if not pipeline.is_done(each)
        ]
        merged = [other for other in before if not other.endswith("/evaluate")]
        site = self._site(stage.recipe.name, _run(stage), f"stages/{name}/", merged)
        for job in stage_jobs(stage.recipe, pending, site):
            # Its backbone has answered as the model of the stage before.
            evaluates = job.name == f"{site.prefix}evaluate"
            yield replace(job, after=[*job.after, *before]) if evaluates else job

    def _baseline(self, stage: Stage, baseline: str, before: Sequence[str]) -> Iterator[Job]:
        name = stage.settings.name
        own = f"{self.recipe.name}-{baseline}-{name}"
        site = self._site(own, _run(stage), f"baselines/{baseline}/{name}/", before)
        for part in BASELINE_STAGES:
            if baseline_is_done(stage, baseline, part):
                continue
            if part in ("openings", "safety"):
                script = render_stage(part, own, self.settings, site.place)
            else:
                command = f"{self._command(part)} --baseline {baseline}/{name}"
                script = render_single(
                    part, own, self.settings, site.place, self._resources(part), command
                )
            yield site.job(part, script, _BASELINE_NEEDS[part], part in TRAININGS)

    def _whole(self, job: str) -> str:
        """The script of one of the jobs of the whole, which use no GPU."""
        place = RunPlace(self.folder, inputs=self._inputs())
        command = self._command(job)
        return render_single(
            job, self.recipe.name, self.settings, place, self.settings.merge, command
        )

    def _command(self, job: str) -> str:
        return f"-m launch stage {shlex.quote(str(self.folder / RECIPE))} {job}"

    def _resources(self, stage: StageName) -> StageResources:
        return self.settings.merge if stage == "merge" else self.settings.evaluation_resources()

    def _site(self, name: str, run: Path, prefix: str, before: Sequence[str]) -> Site:
        place = RunPlace(run, inputs=self._inputs())
        return Site(name, self.settings, place, [run], prefix, before)

    def _inputs(self) -> tuple[Path, ...]:
        """What a container is given: beside a stage's run folder those of the others."""
        if self.settings.container is None:
            return ()
        return (self.folder, *input_folders(self.recipe, self.settings.variables()))

    def _baselines(self) -> dict[str, list[Stage]]:
        names = continual_settings(self.recipe).baselines
        return {name: baseline_stages(self.recipe, name) for name in names}


def _run(stage: Stage) -> Path:
    return stage.recipe.output.resolve()
