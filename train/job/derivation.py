"""One patch: load the backbone, train, measure importance, export (all collective)."""

import gc
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from merge.common.errors import StoppedOnRequestError
from merge.common.provenance import written_by
from merge.engine.coverage import name_patterns
from merge.io.patch_directory import Role
from train.backbone.block_weights import block_weights
from train.backbone.tensors import BackboneTensors
from train.data.batches import BatchPlan, order_seed
from train.guards.guards import Guards
from train.guards.margin_guard import MarginGuard, best_of, looks_of
from train.job.loading import load_model, refuse_impossible
from train.job.loop import Training
from train.job.monitor import Monitor, peak_memory_mib
from train.job.stopping import STOP_FILE, StopRequest
from train.objectives.references import mean_answer_loss
from train.objectives.terms import build_terms
from train.objectives.training_data import TrainingData, cut_answers
from train.patch.export import ExportStoppedError, NotFiniteError, export_patch
from train.patch.identity import first_format_identity, software_versions
from train.patch.importance import choose_samples, measure_importance
from train.recipe import TrainRecipe
from train.settings import TrainingSettings
from train.zero.collectives import any_over_ranks, gather_from_ranks
from train.zero.group import initialise_distributed, leave_distributed
from train.zero.ranks import World
from train.zero.resume import Checkpoints, TrainingProgress
from train.zero.zero3 import Zero3Model

logger = logging.getLogger(__name__)


@dataclass
class Derivation:
    """The derivation of one patch by all ranks of one training."""

    recipe: TrainRecipe
    role: Role
    world: World
    stop: StopRequest
    backbone: Path
    tensors: BackboneTensors
    data: TrainingData
    inputs: dict[str, Any]
    """What determines the patch, see ``train.patch.identity.patch_inputs``."""
    mode: int | None
    """Permission bits of what is written; ``None`` follows the umask."""
    started: float
    """When the job began, by ``time.monotonic``."""
    finished: bool
    """Whether this rank has found the finished patch in the folder."""

    def run(self) -> None:
        """Write the patch directory, unless the main rank has found the patch in it.

        Raises:
            UserError: the machine or the training fails in a way that the user can fix.
            StoppedOnRequestError: a stop was asked for; the next start continues from there.
        """
        initialise_distributed(self.world)
        directory = self.recipe.output / self.role
        # Other nodes may not see yet what stands in a folder over the network.
        if any_over_ranks(self.finished and self.world.is_main):
            logger.info("%s: already done", directory)
            leave_distributed()
            return
        settings = self.recipe.training(self.role)
        checkpoints = Checkpoints(
            self.recipe.checkpoints(self.role),
            self.mode,
            settings.checkpoint_every,
            settings.checkpoints_kept,
            self.inputs["identity"],
            self.world,
            first_format_identity(self.inputs),
        )
        if self.world.is_main:
            # Before the model is loaded: whether it is of these settings.
            checkpoints.latest()
        tensors = self.tensors
        model = load_model(self.backbone, tensors, self.recipe.backbone, settings, self.world)
        refuse_impossible(model, self.data.forget[0], self.backbone)
        # What the start has made stays to the end: no collection, the last included, visits it.
        gc.freeze()
        gc.enable()
        try:
            progress = self._train(model, tensors, checkpoints)
            measuring = time.monotonic()
            progress = self._measure(model, progress, checkpoints)
            self._export(model, progress, checkpoints, time.monotonic() - measuring)
        except StoppedOnRequestError:
            if self.world.is_main:
                # It has been heeded; the next start shall not stop at once.
                (self.recipe.output / STOP_FILE).unlink(missing_ok=True)
            raise
        checkpoints.remove()
        leave_distributed()
        logger.info("%s: done in %.1f s", directory, time.monotonic() - self.started)

    def _stop_asked(self) -> bool:
        return self.stop.agreed(self.recipe.output if self.world.is_main else None)

    def _train(
        self, model: Zero3Model, tensors: BackboneTensors, checkpoints: Checkpoints
    ) -> TrainingProgress:
        """Train to the end, from the newest checkpoint where there is one."""
        settings, data = self.recipe.training(self.role), self.data
        seed = settings.data_seed
        plan = BatchPlan(
            samples=len(data.forget),
            batch_size=settings.batch_of(len(data.forget)),
            seed=order_seed(self.recipe.seed, self.role) if seed is None else seed,
        )
        steps = settings.steps or settings.epochs * plan.steps_per_epoch
        # Both of the backbone: before the model is what a checkpoint holds.
        terms = build_terms(settings, data, plan, steps, model, self.world)
        retained_loss = None
        if data.retained:
            size = settings.micro_batch_size
            retained_loss = mean_answer_loss(model, data.retained, size, self.world)
        progress = checkpoints.resume(model) or TrainingProgress()
        losses = progress.guard_losses
        events = self.recipe.output / "tensorboard" / f"train-{self.role}"
        with Monitor(
            events if self.world.is_main else None,
            self.role,
            steps,
            progress.step,
            model.shape,
            self.world.size,
        ) as monitor:
            monitor.text("run/inputs", f"```yaml\n{yaml.safe_dump(self.inputs)}```")
            monitor.text("run/versions", str(software_versions()))
            seconds = time.monotonic() - self.started
            logger.info("ready after %.1f s; training %s", seconds, self.role)
            training = Training(
                role=self.role,
                settings=settings,
                total_steps=steps,
                model=model,
                backbone=tensors,
                terms=terms,
                retained=data.retained,
                guards=Guards(settings.guards, model.vocabulary_size, losses, retained_loss),
                world=self.world,
                margin=self._margin_guard(settings),
                checkpoints=checkpoints,
                monitor=monitor,
                stop_asked=self._stop_asked,
            )
            progress = training.run(progress)
            logger.info("%s after step %d", progress.stop_reason, progress.step)
            monitor.text("run/stop_reason", progress.stop_reason or "")
        return progress

    def _margin_guard(self, settings: TrainingSettings) -> MarginGuard | None:
        if not self.data.openings:
            return None
        return MarginGuard(
            settings.guards,
            unlearns=settings.keeps_best,
            questions=self.data.openings,
            micro_batch_size=settings.micro_batch_size,
            world=self.world,
        )

    def _measure(
        self, model: Zero3Model, progress: TrainingProgress, checkpoints: Checkpoints
    ) -> TrainingProgress:
        """Measure the importance to its end, from where an earlier start has left it."""
        measured = cut_answers(
            self.data.measured or self.data.forget, self.recipe.importance.answer_tokens
        )
        samples = choose_samples(self.recipe.importance, len(measured))
        progress = measure_importance(
            model, measured, samples, self.world, progress, self._stop_asked
        )
        if progress.importance_samples < len(samples):
            checkpoints.save(model, progress)
            raise StoppedOnRequestError(
                f"{self.role} training is saved with the importance of "
                f"{progress.importance_samples} samples"
            )
        return progress

    def _export(
        self,
        model: Zero3Model,
        progress: TrainingProgress,
        checkpoints: Checkpoints,
        importance_seconds: float,
    ) -> None:
        """Write the patch; what is finished before it is saved where a stop comes meanwhile."""
        logger.info("writing the patch of %d parameters", model.shape.parameters)
        try:
            export_patch(
                self.recipe.output / self.role,
                self.role,
                self.mode,
                self._metadata(progress, importance_seconds),
                model,
                self.tensors,
                progress.importance_samples,
                self.world,
                self._stop_asked,
            )
        except ExportStoppedError:
            checkpoints.save(model, progress)
            raise StoppedOnRequestError(
                f"{self.role} training is saved with its whole importance"
            ) from None
        except NotFiniteError:
            # The end that a checkpoint holds is no good for any later start.
            checkpoints.remove()
            raise

    def _metadata(self, progress: TrainingProgress, importance_seconds: float) -> dict[str, Any]:
        """What patch.json says besides format and role."""
        memory = gather_from_ranks(peak_memory_mib())
        return {
            "score": "gradient",
            "linear_weights": name_patterns(
                self.tensors.map.tensors_of(block_weights(self.tensors.map.skeleton))
            ),
            **self.inputs,
            "written_by": written_by(self.recipe.sha256),
            "versions": software_versions(),
            "processes": self.world.size,
            "stop_reason": progress.stop_reason,
            "steps": progress.step,
            **self._margins(progress),
            "tokens": progress.tokens,
            "importance_samples": progress.importance_samples,
            "training_seconds": round(progress.seconds, 3),
            "importance_seconds": round(importance_seconds, 3),
            "peak_host_memory_mib": [round(host) for host, _ in memory],
            "peak_gpu_memory_mib": [round(gpu) for _, gpu in memory],
        }

    def _margins(self, progress: TrainingProgress) -> dict[str, Any]:
        """What was seen of the refusal margin, where it was watched."""
        looks = looks_of(progress.looks)
        if not looks:
            return {}
        return {
            "best_step": best_of(looks).step,
            "margins": [look._asdict() for look in looks],
        }
