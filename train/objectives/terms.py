"""What one optimizer step minimises: the terms of its objective, each over samples of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from train.data.batches import BatchPlan, MicroBatch, TokenizedExample, micro_batches
from train.objectives.losses import (
    TopDistributions,
    answer_divergences,
    ascent,
    npo,
    refusal_transitions,
)
from train.objectives.references import backbone_distributions, backbone_losses
from train.objectives.training_data import TrainingData, cut_answers
from train.settings import ObjectiveName, TrainingSettings
from train.zero.ranks import World
from train.zero.zero3 import Zero3Model

SampleLosses = Callable[[Tensor, Tensor, MicroBatch], Tensor]
"""From answer losses ``[samples]`` and logits to what is minimised, ``[samples]``."""


@dataclass(frozen=True)
class Term:
    """One part of an objective; its mean over the step's batch counts with ``weight``."""

    name: str
    weight: float
    examples: Sequence[TokenizedExample]
    plan: BatchPlan
    losses: SampleLosses
    decay: float = 1.0
    """Decay of the weights along an answer, see ``answer_losses``."""

    def batch(self, step: int) -> list[int]:
        """The samples of a step, the longest first.

        Samples of like length then share a micro-batch, which pads little, and ranks that run at
        the same time have like work.
        """
        return sorted(
            self.plan.batch(step), key=lambda index: (-len(self.examples[index][0]), index)
        )

    def tokens(self, step: int) -> int:
        """Tokens of a step over all ranks, padding left out."""
        return sum(len(self.examples[index][0]) for index in self.plan.batch(step))

    def share(self, step: int, size: int, world: World) -> list[list[int]]:
        """The samples of this rank's micro-batches in a step; on every rank as many."""
        return micro_batches(self.batch(step), size, world.rank, world.size)


def build_terms(
    settings: TrainingSettings,
    data: TrainingData,
    plan: BatchPlan,
    steps: int,
    model: Zero3Model,
    world: World,
) -> list[Term]:
    """The terms of the objective, the one over D_h first (collective).

    The backbone's own answers are computed here, while the model still is the backbone, so that
    no second model is ever needed.

    Args:
        plan: of D_h.
        steps: of the whole training.
    """
    source = _Source(settings, data, plan, steps, model, world)
    forget = Term(
        name="forget",
        weight=1.0,
        examples=cut_answers(data.forget, settings.answer_tokens, data.refusals_open),
        plan=plan,
        losses=_ascent,
        decay=settings.answer_decay,
    )
    return _TERMS[settings.objective](forget, source)


class _Source(NamedTuple):
    """What terms are made of; see ``build_terms``."""

    settings: TrainingSettings
    data: TrainingData
    plan: BatchPlan
    steps: int
    model: Zero3Model
    world: World


def _ascent_terms(forget: Term, source: _Source) -> list[Term]:
    return [forget]


def _descent_terms(forget: Term, source: _Source) -> list[Term]:
    return [replace(forget, losses=_descent)]


def _npo_terms(forget: Term, source: _Source) -> list[Term]:
    settings, size = source.settings, source.settings.micro_batch_size
    reference = backbone_losses(source.model, forget.examples, size, source.world, forget.decay)
    return [replace(forget, losses=_npo(reference, settings.npo_beta))]


def _mismatch_terms(forget: Term, source: _Source) -> list[Term]:
    settings, data, plan, steps, model, world = source
    weights, size = settings.mismatch, settings.micro_batch_size
    harmless = _harmless_term(weights.harmless_weight, source)
    wanted = sorted(
        {
            index
            for step in range(steps)
            for indices in harmless.share(step, size, world)
            for index in indices
        }
    )
    reference = backbone_distributions(model, data.harmless, wanted, weights.kept_tokens, size)
    return [
        replace(forget, weight=weights.forget_weight),
        Term("mismatch", weights.mismatch_weight, data.mismatched, plan, _descent),
        replace(harmless, losses=_divergence(reference)),
    ]


def _derta_terms(forget: Term, source: _Source) -> list[Term]:
    settings, plan = source.settings, source.plan
    parts, share = source.data.decoupled, settings.derta.transition_share
    assert parts is not None  # made of the refusals that the objective needs
    # Every step has some of either part: an empty one would have no mean.
    turned = min(max(round(share * plan.batch_size), 1), max(plan.batch_size - 1, 1))
    refused = max(plan.batch_size - turned, 1)
    refusals = cut_answers(parts.refusals, settings.answer_tokens)
    return [
        replace(
            forget,
            weight=share,
            examples=cut_answers(parts.transitions, settings.answer_tokens),
            plan=BatchPlan(len(parts.transitions), turned, plan.seed),
            losses=_transitions(torch.tensor(parts.first_tokens), forget.decay),
        ),
        Term(
            name="refusals",
            weight=1 - share,
            examples=refusals,
            plan=BatchPlan(len(refusals), refused, plan.seed),
            losses=_descent,
            decay=forget.decay,
        ),
        _harmless_term(settings.derta.harmless_weight, source),
    ]


def _harmless_term(weight: float, source: _Source) -> Term:
    """The descent on harmless pairs, as many in a step as of D_h."""
    harmless, plan = source.data.harmless, source.plan
    return Term(
        name="harmless",
        weight=weight,
        examples=harmless,
        plan=BatchPlan(len(harmless), plan.batch_size, plan.seed),
        losses=_descent,
    )


_TERMS: dict[ObjectiveName, Callable[[Term, _Source], list[Term]]] = {
    "ascent": _ascent_terms,
    "descent": _descent_terms,
    "npo": _npo_terms,
    "ascent_mismatch_kl": _mismatch_terms,
    "derta": _derta_terms,
}


def _ascent(losses: Tensor, logits: Tensor, micro: MicroBatch) -> Tensor:
    return ascent(losses)


def _descent(losses: Tensor, logits: Tensor, micro: MicroBatch) -> Tensor:
    """L(x) itself: gradient descent, which learns the answers (SafePatching, section 3.1)."""
    return losses


def _npo(reference: Tensor, beta: float) -> SampleLosses:
    def losses_of(losses: Tensor, logits: Tensor, micro: MicroBatch) -> Tensor:
        chosen = reference[list(micro.indices) or [0]].to(losses.device)
        return npo(losses, chosen, micro.labels, beta)

    return losses_of


def _transitions(first_tokens: Tensor, decay: float) -> SampleLosses:
    def losses_of(losses: Tensor, logits: Tensor, micro: MicroBatch) -> Tensor:
        chosen = first_tokens[list(micro.indices) or [0]].to(logits.device)
        return refusal_transitions(logits, micro.labels, chosen, decay)

    return losses_of


def _divergence(reference: Mapping[int, TopDistributions]) -> SampleLosses:
    def losses_of(losses: Tensor, logits: Tensor, micro: MicroBatch) -> Tensor:
        if not micro.indices:
            # The stand-in of an empty share, of weight 0.
            return losses
        chosen = [reference[index] for index in micro.indices]
        joined = TopDistributions(
            *(
                torch.cat([getattr(sample, name) for sample in chosen]).to(logits.device)
                for name in ("ids", "log_probabilities", "rest")
            )
        )
        return answer_divergences(logits, micro.labels, joined)

    return losses_of
