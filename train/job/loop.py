"""The training loop: batches in, one optimizer step each, until the plan or a guard ends it."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from merge.common.errors import StoppedOnRequestError, UserError
from merge.io.patch_directory import Role
from train.backbone.tensors import BackboneTensors
from train.data.batches import MicroBatch, TokenizedExample, collate
from train.guards.guards import Guards, not_finite
from train.guards.margin_guard import Look, MarginGuard, best_of, looks_of
from train.job.monitor import Monitor, peak_memory_mib
from train.objectives.losses import answer_losses
from train.objectives.references import mean_answer_loss
from train.objectives.terms import Term
from train.patch.patch_size import measure_patch
from train.settings import TrainingSettings
from train.zero.collectives import compute_device, gather_from_ranks
from train.zero.ranks import World
from train.zero.resume import Checkpoints, TrainingProgress
from train.zero.zero3 import Zero3Model

StepInput = list[list[MicroBatch]]
"""This rank's micro-batches of every term."""


@dataclass(frozen=True)
class Training:
    """One training, ready to run on every rank."""

    role: Role
    settings: TrainingSettings
    total_steps: int
    """When no guard ends the training."""
    model: Zero3Model
    backbone: BackboneTensors
    terms: Sequence[Term]
    """The first one is over D_h, and its mean answer loss is the forget loss."""
    retained: Sequence[TokenizedExample]
    guards: Guards
    world: World
    margin: MarginGuard | None
    checkpoints: Checkpoints
    monitor: Monitor
    stop_asked: Callable[[], bool]
    """A collective, asked before every micro-batch."""

    def run(self, progress: TrainingProgress) -> TrainingProgress:
        """Train from ``progress`` to the end (collective).

        Raises:
            UserError: a value is not finite, and no checkpoint holds a good state.
            StoppedOnRequestError: a stop was asked for; a checkpoint is written.
        """
        self.model.engine.train()
        while progress.stop_reason is None:
            progress = self._advance(progress)
            if self.checkpoints.is_due(progress):
                self.checkpoints.save(self.model, progress)
        return progress

    def _advance(self, progress: TrainingProgress) -> TrainingProgress:
        """Take one step, or end the training where all steps are done."""
        if progress.step >= self.total_steps:
            return self._complete(progress)
        started = time.monotonic()
        number = progress.step + 1
        # The seed depends on the step alone, so that dropout is the same in a resumed training.
        seed = self.terms[0].plan.seed
        torch.manual_seed(seed + progress.step * self.world.size + self.world.rank)
        shares = self._prepare(progress.step)
        waited = time.monotonic() - started
        scalars = self._measure(progress.step)
        look = None
        if self.margin is not None and self.margin.is_due(progress.step):
            look = self.margin.look(self.model, progress.step)
            scalars |= _margin_scalars(look)
        scalars |= self._accumulate(shares, progress, waited)
        loss = scalars["loss/forget(nats)"]
        reason = not_finite(forget_loss=loss, refusal_margin=look.margin if look else 0.0)
        if reason is not None:
            return self._diverged(progress, reason)
        reason = self.guards.reason_to_stop(
            loss, scalars.get("patch/norm(1)"), scalars.get("loss/retained(nats)")
        )
        if reason is not None:
            self.monitor.scalars(number, scalars)
            return self._turn_back(progress, reason)
        if self.margin is not None and look is not None:
            # Only now: a stop in the middle of a step leaves what belongs to the step before.
            progress = self._note(progress, look)
            reason = self.margin.reason_to_stop(looks_of(progress.looks))
            if reason is not None:
                self.monitor.scalars(number, scalars)
                self.model.clear_gradients()
                return self._end(progress, reason)
        rate = learning_rate(self.settings, progress.step)
        gradient_norm = self.model.step(rate)
        reason = not_finite(gradient_norm=gradient_norm)
        if reason is not None:
            return self._diverged(progress, reason)
        tokens = sum(term.tokens(progress.step) for term in self.terms)
        samples = sum(len(term.plan.batch(progress.step)) for term in self.terms)
        scalars |= {
            "optimizer/learning_rate(1)": rate,
            "optimizer/gradient_norm(1)": gradient_norm,
            "optimizer/skipped_steps(1)": self.model.skipped_steps,
        }
        self.monitor.step(number, tokens, samples, scalars)
        return replace(
            progress,
            step=number,
            guard_losses=self.guards.losses,
            tokens=progress.tokens + tokens,
            seconds=progress.seconds + time.monotonic() - started,
        )

    def _prepare(self, step: int) -> StepInput:
        size = self.settings.micro_batch_size
        shares = [
            [collate(term.examples, each) for each in term.share(step, size, self.world)]
            for term in self.terms
        ]
        if not torch.cuda.is_available():
            return shares
        return [[micro.pinned() for micro in share] for share in shares]

    def _measure(self, step: int) -> dict[str, float]:
        """What is not measured at every step, and is before every regular checkpoint counts."""
        guards, scalars = self.settings.guards, {}
        regular = self.checkpoints.is_regular(step)
        if regular or step % guards.patch_norm_every == 0:
            size = measure_patch(self.model, self.backbone)
            scalars["patch/norm(1)"] = size.norm
            scalars["patch/surviving_bf16(1)"] = size.surviving
            for group, norm in size.group_norms.items():
                scalars[f"patch_norm/{group}(1)"] = norm
        if self.retained and (regular or step % guards.retained_every == 0):
            micro_size = self.settings.micro_batch_size
            loss = mean_answer_loss(self.model, self.retained, micro_size, self.world)
            scalars["loss/retained(nats)"] = loss
        return scalars

    def _accumulate(
        self, shares: StepInput, progress: TrainingProgress, waited: float
    ) -> dict[str, float]:
        """Gradient of the objective; returns what all ranks together have measured."""
        left = sum(len(share) for share in shares)
        # The mean answer loss of every term, and the objective, which weighs and turns them.
        sums = torch.zeros(len(self.terms) + 1, device=compute_device())
        for place, (term, share) in enumerate(zip(self.terms, shares, strict=True)):
            count = len(term.plan.batch(progress.step))
            for waiting in share:
                if self.stop_asked():
                    self._stop(progress)
                micro = waiting.to(compute_device())
                logits = self.model.logits(micro)
                losses = answer_losses(logits, micro.labels, term.decay)
                objective = (term.losses(losses, logits, micro) * micro.weights).sum()
                left -= 1
                # The mean over the batch; DeepSpeed divides by the number of ranks once more.
                scale = term.weight * self.world.size / count
                self.model.backward(objective * scale, last=left == 0)
                sums[place] += (losses.detach() * micro.weights).sum() / count
                sums[-1] += objective.detach() * term.weight / count
        # One exchange for all: every one of them waits for the slowest rank.
        samples = sum(len(micro.indices) for micro in shares[0])
        mine = [*sums.tolist(), float(samples), waited, *peak_memory_mib()]
        ranks = gather_from_ranks(mine)
        forget_count = len(self.terms[0].plan.batch(progress.step))
        limit = math.log(self.model.vocabulary_size)
        scalars = {
            f"loss/{term.name}(nats)": sum(values[place] for values in ranks)
            for place, term in enumerate(self.terms)
        }
        scalars["loss/objective(nats)"] = sum(values[len(self.terms)] for values in ranks)
        *_, samples_place, wait_place, host_place, gpu_place = range(len(mine))
        return {
            **scalars,
            "loss/forget_rank_max(nats)": max(
                values[0] * forget_count / values[samples_place]
                for values in ranks
                if values[samples_place]
            ),
            "loss/forget_limit(nats)": self.guards.loss_limit,
            "loss/forget_of_uniform(1)": scalars["loss/forget(nats)"] / limit,
            "speed/data_wait(s)": max(values[wait_place] for values in ranks),
            **{
                f"memory/{kind}_peak_rank_{rank}(MiB)": values[place]
                for rank, values in enumerate(ranks)
                for kind, place in (("host", host_place), ("gpu", gpu_place))
            },
        }

    def _stop(self, progress: TrainingProgress) -> None:
        """Save where the training stands before this step, and leave."""
        self.model.clear_gradients()
        self.checkpoints.save(self.model, progress)
        raise StoppedOnRequestError(f"{self.role} training is saved after step {progress.step}")

    def _diverged(self, progress: TrainingProgress, reason: str) -> TrainingProgress:
        reason = f"diverged at step {progress.step + 1}: {reason}"
        self.monitor.text("run/stop_reason", reason)
        stopped = self._turn_back(progress, reason)
        if stopped.step == progress.step and not self._keeps_best(progress):
            raise UserError(
                f"{self.role} training {reason}; lower {self.role}.learning_rate or "
                f"{self.role}.guards.max_forget_loss"
            )
        return stopped

    def _turn_back(self, progress: TrainingProgress, reason: str) -> TrainingProgress:
        """The training's end at the last state that no guard objected to, where one was saved."""
        self.model.clear_gradients()
        if self._keeps_best(progress):
            return self._end(progress, f"{reason} before step {progress.step + 1}")
        good = self.checkpoints.turn_back(self.model, progress.step)
        if good is None and not progress.step:
            raise UserError(
                f"{self.role} training ends before its first step: {reason}; raise that limit in "
                f"{self.role}.guards, or start from another backbone"
            )
        if good is None:
            return replace(progress, stop_reason=reason, guard_losses=self.guards.losses)
        reason = f"{reason} before step {progress.step + 1}; the patch is of step {good.step}"
        return replace(good, stop_reason=reason)

    def _complete(self, progress: TrainingProgress) -> TrainingProgress:
        """The end after all steps, whose last state may be the best."""
        if self.margin is not None:
            look = self.margin.look(self.model, progress.step)
            self.monitor.scalars(progress.step + 1, _margin_scalars(look))
            progress = self._note(progress, look)
        return self._end(progress, "all steps done")

    def _note(self, progress: TrainingProgress, look: Look) -> TrainingProgress:
        """Keep a look at the present state, and the state itself where it is the best so far."""
        progress = replace(progress, looks=[*progress.looks, list(look)])
        if self.margin is not None and self.margin.is_best(looks_of(progress.looks)):
            self.checkpoints.snapshot.take(self.model)
        return progress

    def _keeps_best(self, progress: TrainingProgress) -> bool:
        """Whether the patch is that of the state with the highest refusal margin."""
        return self.margin is not None and self.margin.unlearns and bool(progress.looks)

    def _end(self, progress: TrainingProgress, reason: str) -> TrainingProgress:
        """The training's end, at its best state where the refusal margin chooses it (collective).

        Raises:
            UserError: no step has raised the margin, so there is no patch.
        """
        if not self._keeps_best(progress):
            return replace(progress, stop_reason=reason, guard_losses=self.guards.losses)
        best = best_of(looks_of(progress.looks))
        if not best.step:
            raise UserError(
                f"{self.role} training: no step has raised the refusal margin above the "
                f"backbone's {best.margin:.4f} ({reason}); lower {self.role}.learning_rate, or set "
                f"{self.role}.guards.margin_samples to 0"
            )
        if best.step != progress.step:
            reason = f"{reason}; the patch is of step {best.step}, of margin {best.margin:.4f}"
        self.checkpoints.snapshot.restore(self.model)
        tokens = sum(term.tokens(step) for term in self.terms for step in range(best.step))
        return replace(progress, step=best.step, stop_reason=reason, tokens=tokens)


def _margin_scalars(look: Look) -> dict[str, float]:
    return {
        "margin/refusal(nats)": look.margin,
        "margin/refusal_probability(1)": look.probability,
    }


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """Linear warmup from 0 (not taken itself), then constant; ``step`` counts from 0."""
    return settings.learning_rate * min(1.0, (step + 1) / (settings.warmup_steps + 1))
