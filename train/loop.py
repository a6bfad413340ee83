"""The training loop: batches in, one optimizer step each, until the plan or a guard ends it."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from merge.patch_directory import Role
from train.backbone import BackboneTensors
from train.batches import BatchPlan, TokenizedExample, collate, micro_batches
from train.collectives import compute_device, sum_over_ranks
from train.guards import Guards, require_finite
from train.monitor import Monitor
from train.objectives import OBJECTIVES, answer_losses
from train.recipe import TrainingSettings
from train.resume import Checkpoints, Progress
from train.world import World
from train.zero3 import Zero3Model


@dataclass(frozen=True)
class Training:
    """One training, ready to run on every rank."""

    role: Role
    settings: TrainingSettings
    model: Zero3Model
    backbone: BackboneTensors
    examples: Sequence[TokenizedExample]
    plan: BatchPlan
    guards: Guards
    world: World

    def total_steps(self) -> int:
        """Optimizer steps when no guard ends the training."""
        return self.settings.steps or self.settings.epochs * self.plan.steps_per_epoch

    def run(self, progress: Progress, monitor: Monitor, checkpoints: Checkpoints) -> Progress:
        """Train from ``progress`` to the end (collective).

        Raises:
            UserError: the loss or the gradient is no longer finite.
        """
        self.model.engine.train()
        while progress.stop_reason is None:
            progress = self._advance(progress, monitor)
            if checkpoints.is_due(progress):
                checkpoints.save(self.model, progress)
        return progress

    def _advance(self, progress: Progress, monitor: Monitor) -> Progress:
        """One step, or the end of the training in its stead."""
        if progress.step >= self.total_steps():
            return replace(progress, stop_reason="all steps done")
        started = time.monotonic()
        # Of the step alone, so that dropout too is the same in a resumed training.
        torch.manual_seed(self.plan.seed + progress.step * self.world.size + self.world.rank)
        batch = self.plan.batch(progress.step)
        loss = sum_over_ranks([self._accumulate(batch)])[0]
        number = progress.step + 1
        require_finite(self.role, number, forget_loss=loss)
        patch_norm = None
        if progress.step % self.settings.guards.patch_norm_every == 0:
            patch_norm = self._patch_norm()
        reason = self.guards.reason_to_stop(loss, patch_norm)
        if reason is not None:
            self.model.clear_gradients()
            return replace(progress, stop_reason=reason, guard_losses=self.guards.losses)
        rate = learning_rate(self.settings, progress.step)
        gradient_norm = self.model.step(rate)
        require_finite(self.role, number, gradient_norm=gradient_norm)
        tokens = sum(len(self.examples[index][0]) for index in batch)
        scalars = {
            "loss/forget(nats)": loss,
            "loss/forget_limit(nats)": self.guards.loss_limit,
            "optimizer/learning_rate(1)": rate,
            "optimizer/gradient_norm(1)": gradient_norm,
        }
        if patch_norm is not None:
            scalars["patch/norm(1)"] = patch_norm
        monitor.step(number, tokens, scalars)
        return Progress(
            step=number,
            stop_reason=None,
            guard_losses=self.guards.losses,
            tokens=progress.tokens + tokens,
            seconds=progress.seconds + time.monotonic() - started,
        )

    def _accumulate(self, batch: list[int]) -> float:
        """Gradient of the batch's mean objective; returns this rank's part of its mean loss."""
        objective = OBJECTIVES[self.settings.objective]
        share = micro_batches(
            batch, self.settings.micro_batch_size, self.world.rank, self.world.size
        )
        total = torch.zeros((), device=compute_device())
        for number, indices in enumerate(share, start=1):
            micro = collate(self.examples, indices, compute_device())
            logits = self.model.engine(
                input_ids=micro.input_ids, attention_mask=micro.attention_mask, use_cache=False
            ).logits
            losses = answer_losses(logits, micro.labels)
            # The mean over the batch; DeepSpeed divides by the number of ranks once more.
            loss = (objective(losses) * micro.weights).sum() * self.world.size / len(batch)
            self.model.backward(loss, last=number == len(share))
            total += (losses.detach() * micro.weights).sum() / len(batch)
        return total.item()

    def _patch_norm(self) -> float:
        """Euclidean norm of the patch, from the fp32 masters (collective)."""
        total = torch.zeros((), dtype=torch.float64, device=compute_device())
        for name in self.model.parameters:
            start, stop = self.model.local_range(name)
            backbone = self.backbone.read_flat(name, start, stop, self.model.dtype)
            master = self.model.local_master(name)
            total += (master - backbone.to(master.device)).double().square().sum()
        return math.sqrt(sum_over_ranks([total.item()])[0])


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """Linear warmup from 0 (not taken itself), then constant; ``step`` counts from 0."""
    return settings.learning_rate * min(1.0, (step + 1) / (settings.warmup_steps + 1))
