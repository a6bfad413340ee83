"""The stages from a recipe to its report, on this machine or as the jobs of a cluster call it.

Every stage leaves its files, so a rerun goes on where the last one ended: here one after the other
on this machine, in launch/slurm/submit.py as jobs of a cluster.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from eval.report.record import Report
from launch.pipeline.stages import STAGES
from launch.recipe import Recipe
from launch.run.folder import (
    FALSE_REFUSALS,
    HARVEST,
    PAIRS,
    claim_folder,
    holding,
    report_file,
)
from launch.run.stage import Stage, StageTable, Training, find_stage, without_unasked
from launch.run.stopping import stop_on_signals
from launch.run.training import train_patch
from launch.slurm.queue.job_record import refuse_beside_jobs
from merge.common.errors import UserError
from merge.common.files import read_json
from merge.common.metrics import metrics_file

logger = logging.getLogger(__name__)


class Pipeline:
    """The stages of one recipe in its run folder.

    Args:
        table: the stages that there may be; by default a run's, without those on request.
    """

    def __init__(self, recipe: Recipe, table: StageTable | None = None) -> None:
        self.recipe = recipe
        self.folder = recipe.output
        self._table = without_unasked(STAGES) if table is None else table

    def run(self) -> Path | None:
        """Run every stage that is not done yet.

        Returns:
            The report's folder, if the recipe asks for an evaluation.

        Raises:
            UserError: a stage cannot be done; what was finished before stays.
            StoppedOnRequestError: a signal asked for it; what was finished before stays.
        """
        self.reach(self.stages())
        return None if self.recipe.eval is None else report_file(self.folder).parent

    def choose(self) -> None:
        """Run the stages up to the search; the merge, which deletes the intermediates, stays out.

        Raises:
            UserError, StoppedOnRequestError: as ``run``.
        """
        self.reach(("search",))

    def harvest(self) -> list[Path]:
        """Make the data that the recipe makes of the backbone's own answers.

        Returns:
            The files of pairs.

        Raises:
            UserError, StoppedOnRequestError: as ``run``.
        """
        self.reach(("openings", "false_refusals"))
        files = (self.folder / HARVEST / name for name in (PAIRS, FALSE_REFUSALS))
        return [file for file in files if file.is_file()]

    def reach(self, names: Iterable[str]) -> None:
        """Run some stages and all that they need, those that are not done yet.

        Raises:
            UserError, StoppedOnRequestError: as ``run``.
        """
        wanted = set(names)
        for name in reversed(self.stages()):
            if name in wanted:
                wanted.update(self._table[name].needs_of(self.recipe))
        self.prepare()
        for name in self.stages():
            if name in wanted and not self._table[name].prepares:
                self.run_unless_done(name)

    def prepare(self) -> None:
        """Have backbone and data ready, and checked.

        Raises:
            UserError: a preparation cannot be done, an input is missing or wrong, or jobs of this
                run are in SLURM's queue.
            StoppedOnRequestError: a signal asked for it.
        """
        self.claim()
        for name in self.preparations():
            self.run_unless_done(name)
        self.check()

    def claim(self) -> None:
        """Have the run folder, for this recipe and this machine alone.

        Raises:
            UserError: it is of another recipe, or jobs of this run are in SLURM's queue.
        """
        refuse_beside_jobs(self.folder)
        claim_folder(self.recipe)

    def check(self) -> None:
        """See that backbone, data and all else will do for what is still to be done.

        Raises:
            UserError: an input is missing or wrong.
        """
        # Harvested data is deleted after the merge.
        if not self.is_done("merge"):
            from launch.prepare.preflight import check_inputs

            check_inputs(self.recipe)

    def run_job(self, name: str) -> None:
        """Do what a job of a cluster does: one stage, and after the last preparation the checks.

        Args:
            name: of a stage, or of a part or worker of one.

        Raises:
            UserError, StoppedOnRequestError: as ``run``.
        """
        self.run_unless_done(name)
        prepares = self._stage(name).prepares
        if prepares and all(self.is_done(other) for other in self.preparations()):
            self.check()

    def preparations(self) -> list[str]:
        """The stages that make what the trainings start from."""
        return [name for name in self.stages() if self._table[name].prepares]

    def stages(self) -> list[str]:
        """The stages that this recipe has, in order."""
        return [name for name, stage in self._table.items() if stage.is_wanted(self.recipe)]

    def pending(self) -> list[Stage]:
        """The stages that this recipe has and that are not done, in order."""
        return [self._table[name] for name in self.stages() if not self.is_done(name)]

    def is_done(self, name: str) -> bool:
        """Whether a stage has left all its files, or what was made of them is there."""
        return self._stage(name).is_done(self.recipe)

    def run_unless_done(self, name: str) -> None:
        """Do one stage, from where an earlier attempt has left it.

        Raises:
            UserError: it cannot be done, or another process is at it.
            StoppedOnRequestError: a signal asked for it.
        """
        stage = self._stage(name)
        with holding(self.folder, name):
            if stage.is_done(self.recipe) and not stage.repeats:
                logger.info("%s: already done", name)
                return
            logger.info("%s: begins", name)
            if isinstance(stage.run, Training):
                if stage.run.prepare is not None:
                    stage.run.prepare(self.recipe)
                train_patch(self.folder / stage.run.recipe, stage.run.role)
                return
            with stop_on_signals(), metrics_file(self.folder, name):
                stage.run(self.recipe)

    def _stage(self, name: str) -> Stage:
        stage = find_stage(self._table, name, self.recipe)
        if stage is None:
            raise UserError(
                f"stage {name}: the recipe of {self.folder} has none; choose one of "
                f"{', '.join(self.stages())}"
            )
        return stage


def read_report(folder: Path) -> Report:
    """The finished report of a run."""
    return cast(Report, read_json(folder / "report.json"))
