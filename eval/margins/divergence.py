"""KL divergence of a changed model from the original on given answers, by forward passes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from eval.answering.token_streams import forward_arguments, last_logits_argument
from train.chat.prompts import IGNORED_LABEL
from train.data.batches import TokenizedExample, collate, prompt_tokens

_ROWS = 4
"""Answers in one batch: the logits of all their tokens are in memory at once."""


@dataclass(frozen=True)
class Reference:
    """The next-token distributions of a model at every token of some answers."""

    examples: Sequence[TokenizedExample]
    log_probabilities: Sequence[torch.Tensor]
    """fp16 [answer tokens, vocabulary] of each batch, on the model's device."""

    @classmethod
    def of(cls, model: PreTrainedModel, examples: Sequence[TokenizedExample]) -> "Reference":
        """Measure the model as it is; its answers' tokens are the examples' labels."""
        sorted_examples = sorted(examples, key=lambda example: len(example[0]))  # little padding
        distributions = _log_probabilities(model, sorted_examples)
        return cls(sorted_examples, [distribution.half() for distribution in distributions])

    def divergence(self, model: PreTrainedModel) -> float:
        """KL(then || now) in nats, mean over the answers' tokens.

        Infinite where the model now gives no probability to what was likely, or no numbers at all:
        NaN would pass every comparison with a bound.
        """
        total, tokens = 0.0, 0
        for before, now in zip(
            self.log_probabilities, _log_probabilities(model, self.examples), strict=True
        ):
            before = before.float()
            # Some models give tokens that only fill up their vocabulary no probability at all.
            terms = (before.exp() * (before - now)).masked_fill(before.isneginf(), 0.0)
            total += terms.sum().item()
            tokens += len(now)
        if not math.isfinite(total):
            return math.inf
        return max(0.0, total / tokens) if tokens else 0.0


@torch.inference_mode()
def _log_probabilities(
    model: PreTrainedModel, examples: Sequence[TokenizedExample]
) -> Iterator[torch.Tensor]:
    """Log-probabilities at the labelled tokens, fp32 [tokens, vocabulary], batch by batch."""
    for start in range(0, len(examples), _ROWS):
        indices = range(start, min(start + _ROWS, len(examples)))
        batch = collate(examples, indices)
        mask = batch.attention_mask.to(model.device)
        arguments = forward_arguments(model, batch.input_ids.to(model.device), mask)
        first = min(prompt_tokens(examples[index]) for index in indices)
        arguments |= last_logits_argument(model, count=mask.shape[1] - first + 1)
        logits = model(**arguments, use_cache=False).logits
        labels = batch.labels[:, -logits.shape[1] :]
        counted = labels[:, 1:] != IGNORED_LABEL
        logits = logits[:, :-1]
        yield logits[counted.to(logits.device)].float().log_softmax(-1)
