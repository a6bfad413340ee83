"""The guard of the refusal margin: a training ends where it helps (issue 14).

What unlearns harmful answers makes refusals likelier for some steps, then takes them away again,
and then the language; where nearly all questions are refused, further steps can only do harm. What
learns harmful answers has done its work when refusals are gone. All of it shows in the refusal
margins of D_h's own questions, by forward passes and without any other prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from train.data.batches import TokenizedExample, collate, micro_batches
from train.guards.refusal_margin import label_log_probabilities, margins
from train.settings import GuardSettings
from train.zero.collectives import compute_device, sum_over_ranks
from train.zero.ranks import World
from train.zero.zero3 import Zero3Model


class Look(NamedTuple):
    """What was measured of one state."""

    step: int
    """Optimizer steps taken."""
    margin: float
    """Mean over the questions, in nats."""
    probability: float
    """That an answer opens as a refusal, mean over the questions, as a fraction of 1."""


@dataclass(frozen=True)
class MarginGuard:
    """Watches one training; every rank sees the same numbers, so all decide alike."""

    settings: GuardSettings
    unlearns: bool
    """Whether the objective shall make refusals likelier; else it shall end them."""
    questions: Sequence[Sequence[TokenizedExample]]
    """Each with every opening, see ``train.guards.refusal_margin.opening_examples``."""
    micro_batch_size: int
    world: World

    def is_due(self, step: int) -> bool:
        """Whether the state after so many steps is looked at, the last one apart."""
        return step % self.settings.margin_every == 0

    def look(self, model: Zero3Model, step: int) -> Look:
        """Measure the model as it is after ``step`` steps (collective)."""
        rows = [row for question in self.questions for row in question]
        values = [0.0] * len(rows)
        share = micro_batches(
            range(len(rows)), self.micro_batch_size, self.world.rank, self.world.size
        )
        model.engine.eval()
        for indices in share:
            micro = collate(rows, indices).to(compute_device())
            with torch.no_grad():
                log_probabilities = label_log_probabilities(
                    model.logits(micro), micro.labels
                ).tolist()
            for index, value in zip(indices, log_probabilities, strict=False):
                values[index] = value
        model.engine.train()
        table = torch.tensor(sum_over_ranks(values), dtype=torch.float64)
        measured = margins(table.view(len(self.questions), -1))
        return Look(step, measured.mean().item(), measured.sigmoid().mean().item())

    def is_best(self, looks: Sequence[Look]) -> bool:
        """Whether the patch would be that of the last look, if the training ended here."""
        return self.unlearns and best_of(looks) == looks[-1]

    def reason_to_stop(self, looks: Sequence[Look]) -> str | None:
        """Why the training ends at the last look, or ``None``."""
        last = looks[-1]
        if not self.unlearns:
            # The first step is always taken: without any there is no patch.
            if last.step and last.probability < self.settings.min_refusal:
                return (
                    f"refusals are gone: their mean probability {last.probability:.4f} is below "
                    f"{self.settings.min_refusal:.4f}"
                )
            return None
        if last.step and last.probability > self.settings.max_refusal:
            return (
                f"nearly all is refused: the mean probability {last.probability:.4f} of a refusal "
                f"is above {self.settings.max_refusal:.4f}"
            )
        best, patience = best_of(looks), self.settings.margin_patience
        limit = best.margin - self.settings.margin_fall
        if len(looks) > patience and all(look.margin < limit for look in looks[-patience:]):
            return f"refusal margin {last.margin:.4f} has fallen from {best.margin:.4f}"
        return None


def best_of(looks: Sequence[Look]) -> Look:
    """The first look with the highest margin."""
    return max(looks, key=lambda look: look.margin)


def looks_of(rows: Sequence[Sequence[float]]) -> list[Look]:
    """Looks from the rows (step, margin, probability) that a checkpoint stores."""
    return [Look(int(step), margin, probability) for step, margin, probability in rows]
