"""The jobs of a continual alignment: the chain of each stage after that of the stage before."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launch.continual.baselines import baseline_table
from launch.continual.continual import CHECKS, SUMMARY, preparations, prepare_stages
from launch.continual.stage_recipes import (
    ContinualStage,
    baseline_stages,
    continual_settings,
    patch_stages,
)
from launch.pipeline.pipeline import Pipeline
from launch.recipe import Recipe
from launch.run.folder import RECIPE, claim_folder
from launch.slurm.batch_scripts.job_container import input_folders
from launch.slurm.batch_scripts.stage_scripts import RunPlace
from launch.slurm.chain import Job
from launch.slurm.run_chain import Site, stage_jobs
from launch.slurm.system.settings import ClusterSettings


@dataclass(frozen=True)
class ContinualChain:
    """All stages, and those of the baselines beside them; each in its own run folder."""

    recipe: Recipe
    settings: ClusterSettings
    folder: Path

    def runs(self) -> list[Path]:
        """The folders that record its jobs."""
        ways = (patch_stages(self.recipe), *self._baselines().values())
        return [self.folder, *(stage.recipe.output.resolve() for way in ways for stage in way)]

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
        whole = self._site(self.recipe.name, self.recipe)
        jobs = list(stage_jobs(preparations(self.recipe), whole))
        if jobs:
            jobs.append(whole.job(CHECKS))
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
        if jobs or not SUMMARY.is_done(self.recipe):
            jobs.append(replace(whole.job(SUMMARY), after=[job.name for job in jobs]))
        return jobs

    def _stage(self, stage: ContinualStage, before: Sequence[str]) -> Iterator[Job]:
        merged = [other for other in before if not other.endswith("/evaluate")]
        prefix = f"stages/{stage.settings.name}/"
        site = self._site(stage.recipe.name, stage.recipe, prefix, merged)
        for job in stage_jobs(Pipeline(stage.recipe).pending(), site):
            # Its backbone has answered as the model of the stage before.
            evaluates = job.name == f"{site.prefix}evaluate"
            yield replace(job, after=[*job.after, *before]) if evaluates else job

    def _baseline(
        self, stage: ContinualStage, baseline: str, before: Sequence[str]
    ) -> Iterator[Job]:
        name = stage.settings.name
        site = replace(
            self._site(
                f"{self.recipe.name}-{baseline}-{name}",
                stage.recipe,
                f"baselines/{baseline}/{name}/",
                before,
            ),
            recipe_file=shlex.quote(str(self.folder / RECIPE)),
            options=f"--baseline {baseline}/{name}",
        )
        yield from stage_jobs(Pipeline(stage.recipe, baseline_table(baseline)).pending(), site)

    def _site(
        self, name: str, recipe: Recipe, prefix: str = "", before: Sequence[str] = ()
    ) -> Site:
        place = RunPlace(recipe.output.resolve(), inputs=self._inputs())
        return Site(name, self.settings, place, [recipe], prefix, before)

    def _inputs(self) -> tuple[Path, ...]:
        """What a container is given: beside a stage's run folder those of the others."""
        if self.settings.container is None:
            return ()
        return (self.folder, *input_folders(self.recipe, self.settings.variables()))

    def _baselines(self) -> dict[str, list[ContinualStage]]:
        names = continual_settings(self.recipe).baselines
        return {name: baseline_stages(self.recipe, name) for name in names}
