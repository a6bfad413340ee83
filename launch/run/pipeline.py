"""The stages from a recipe to its report; each runs alone, and knows whether it is done.

Every stage leaves its files, so a rerun goes on where the last one ended: here one after the other
on this machine, in launch/slurm/submit.py as jobs of a cluster.
"""

import logging
import shutil
from pathlib import Path
from typing import Any

from launch.ablation.patches import hand_over_openings
from launch.demo.world import build_world
from launch.prepare.first_patch import prepare_first, train_first
from launch.recipe import Recipe
from launch.run.done import chosen_settings, intermediates, is_done
from launch.run.evaluations import Evaluations
from launch.run.folder import (
    FALSE_REFUSALS,
    HARVEST,
    PAIRS,
    PATCHED,
    RECIPE,
    SEARCH_RECORD,
    claim_folder,
    holding,
    report_file,
)
from launch.run.stages import (
    ENDING,
    HARVEST_OF_FALSE_REFUSALS,
    PREPARATIONS,
    StageName,
    stages_of,
)
from launch.run.stopping import stop_on_signals
from launch.run.training import train_patch
from launch.slurm.job_record import refuse_beside_jobs
from merge.common.files import read_json
from merge.common.metrics import metrics_file
from merge.settings import MergeSettings
from train.recipe import ROLES

logger = logging.getLogger(__name__)


class Pipeline:
    """One run of one recipe in its run folder."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.folder = recipe.output
        self.patched = self.folder / PATCHED
        self.search_record = self.folder / SEARCH_RECORD

    def run(self) -> Path | None:
        """Run every stage that is not done yet.

        Returns:
            The report's folder, if the recipe asks for an evaluation.

        Raises:
            UserError: a stage cannot be done; what was finished before stays.
            StoppedOnRequestError: a signal asked for it; what was finished before stays.
        """
        self.choose()
        for stage in self.stages():
            if stage in ENDING:
                self.run_unless_done(stage)
        return None if self.recipe.eval is None else report_file(self.folder).parent

    def choose(self) -> dict[str, MergeSettings]:
        """Run the stages up to the search: what comes after them deletes the intermediates.

        Returns:
            As ``chosen_settings``.

        Raises:
            UserError, StoppedOnRequestError: as ``run``.
        """
        self.prepare()
        for stage in self.stages():
            if stage not in PREPARATIONS + ENDING:
                self.run_unless_done(stage)
        return self.chosen_settings()

    def prepare(self) -> None:
        """Have backbone and data ready, and checked.

        Raises:
            UserError: a preparation cannot be done, an input is missing or wrong, or jobs of this
                run are in SLURM's queue.
            StoppedOnRequestError: a signal asked for it.
        """
        refuse_beside_jobs(self.folder)
        claim_folder(self.recipe)
        for stage in self.preparations():
            self.run_unless_done(stage)
        self.check()

    def harvest(self) -> list[Path]:
        """Make the data that the recipe makes of the backbone's own answers.

        Returns:
            The files of pairs.

        Raises:
            UserError, StoppedOnRequestError: as ``run``.
        """
        self.prepare()
        for stage in self.stages():
            if stage in ("openings", *HARVEST_OF_FALSE_REFUSALS):
                self.run_unless_done(stage)
        files = (self.folder / HARVEST / name for name in (PAIRS, FALSE_REFUSALS))
        return [file for file in files if file.is_file()]

    def check(self) -> None:
        """See that backbone, data and all else will do for what is still to be done.

        Raises:
            UserError: an input is missing or wrong.
        """
        # Harvested data is deleted after the merge.
        if not self.is_done("merge"):
            from launch.prepare.preflight import check_inputs

            check_inputs(self.recipe)

    def run_job(self, stage: StageName) -> None:
        """What a job of a cluster does: one stage, and after the last preparation the checks.

        Raises:
            UserError, StoppedOnRequestError: as ``run``.
        """
        self.run_unless_done(stage)
        if stage in PREPARATIONS and all(map(self.is_done, self.preparations())):
            self.check()

    def try_merges(self, worker: int) -> None:
        """What one job of an array does for the search: its share of the trials.

        Args:
            worker: its number in the array.

        Raises:
            UserError, StoppedOnRequestError: as ``run``.
        """
        name = f"search.{worker}"
        with holding(self.folder, name):
            if self.search_record.is_file():
                logger.info("%s: already done", name)
                return
            logger.info("%s: begins", name)
            with stop_on_signals(), metrics_file(self.folder, name):
                from launch.search.workers import try_apart

                try_apart(self.recipe, self.backbone(), self.search_record.parent, worker)

    def preparations(self) -> list[StageName]:
        """The stages that make what the trainings start from."""
        return [stage for stage in self.stages() if stage in PREPARATIONS]

    def stages(self) -> list[StageName]:
        """The stages that this recipe has, in order."""
        return stages_of(self.recipe)

    def is_done(self, stage: StageName) -> bool:
        """Whether a stage has left all its files, or what was made of them is there."""
        return is_done(self.recipe, stage)

    def run_unless_done(self, stage: StageName) -> None:
        """Do one stage, from where an earlier attempt has left it.

        Raises:
            UserError: it cannot be done, or another process is at it.
            StoppedOnRequestError: a signal asked for it.
        """
        with holding(self.folder, stage):
            if self.is_done(stage):
                logger.info("%s: already done", stage)
            else:
                self._do(stage)

    def _do(self, stage: StageName) -> None:
        logger.info("%s: begins", stage)
        if stage in ROLES:
            train_patch(self.folder / RECIPE, stage)
            return
        if stage == "over_safety_first":
            train_first(self.recipe)
            return
        if stage == "ablation":
            from launch.ablation.ablate import measure

            measure(self.recipe)
            return
        work = {
            "world": self._build_world,
            "alignment": self._align,
            "harvest": self._harvest,
            "openings": self._learn_openings,
            "false_refusals": self._harvest_false_refusals,
            "search": self._search,
            "merge": self._merge,
            "evaluate": self._evaluate,
        }
        with stop_on_signals(), metrics_file(self.folder, stage):
            work[stage]()

    def _build_world(self) -> None:
        assert self.recipe.world is not None
        build_world(self.folder / "world", self.recipe.world, self.recipe.seed)

    def _align(self) -> None:
        from launch.prepare.alignment import align

        align(self.recipe)

    def _harvest(self) -> None:
        from launch.prepare.harvest import harvest

        harvest(self.recipe)

    def _learn_openings(self) -> None:
        from launch.prepare.openings import write_run_openings

        write_run_openings(self.recipe)
        if "over_safety_first" in self.stages():
            prepare_first(self.recipe)
        hand_over_openings(self.folder)

    def _harvest_false_refusals(self) -> None:
        from launch.prepare.false_refusals import harvest_false_refusals

        harvest_false_refusals(self.recipe)

    def _search(self) -> None:
        evaluations = self._evaluations()
        for comparison in evaluations.single_patches():
            evaluations.compare(comparison)
        if self.recipe.search is not None and not self.search_record.is_file():
            from launch.search.search import search

            search(self.recipe, self.backbone(), self.search_record.parent)
        for comparison in evaluations.alternatives(self.chosen_settings()):
            evaluations.compare(comparison)

    def chosen_settings(self) -> dict[str, MergeSettings]:
        """The merge settings by method, those of the patched model first.

        They come from the search, or are the recipe's own.
        """
        return chosen_settings(self.recipe)

    def _merge(self) -> None:
        if not (self.patched / "merge.json").is_file():
            settings = next(iter(self.chosen_settings().values()))
            # One that is there is of a model that was deleted.
            report_file(self.folder).unlink(missing_ok=True)
            self._evaluations().build(settings, self.patched, self.folder / "tensorboard" / "merge")
        for folder in intermediates(self.recipe):
            logger.info("%s: deleted, as it is merged", folder)
            shutil.rmtree(folder)

    def _evaluate(self) -> None:
        evaluations = self._evaluations()
        evaluations.evaluate_backbone()
        evaluations.evaluate_decodings()
        evaluations.evaluate("safepatching", self.patched)
        evaluations.report(self.search_record)

    def _evaluations(self) -> Evaluations:
        return Evaluations(self.recipe, self.backbone())

    def backbone(self) -> Path:
        """The folder of the model that is patched; a hub's is downloaded."""
        from train.backbone.folder import backbone_directory

        return backbone_directory(self.recipe.backbone)


def read_report(folder: Path) -> dict[str, Any]:
    """The finished report of a run."""
    return read_json(folder / "report.json")
