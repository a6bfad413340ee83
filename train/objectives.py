"""Training objectives: pure functions of the answer losses."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from train.prompts import IGNORED_LABEL

Objective = Callable[[Tensor], Tensor]
"""From the samples' answer losses (fp32, one each, nats) to the losses that are minimised."""


def answer_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each sample's answer tokens: L(x) of SafePatching, section 3.

    Args:
        logits: ``[samples, tokens, vocabulary]``, any floating dtype.
        labels: ``[samples, tokens]``, the input's own ids, -100 outside the answer.

    Returns:
        ``[samples]``, fp32, nats a token. A sample without answer tokens is not allowed.
    """
    targets = labels[:, 1:]
    answered = targets != IGNORED_LABEL
    # Answer positions alone become fp32: a long prompt's logits would be most of the memory.
    token_losses = cross_entropy(
        logits[:, :-1][answered].float(), targets[answered], reduction="none"
    )
    sample = torch.arange(len(labels), device=labels.device)[:, None].expand_as(targets)[answered]
    sums = torch.zeros(len(labels), device=labels.device).index_add(0, sample, token_losses)
    return sums / answered.sum(dim=1)


def ascent(losses: Tensor) -> Tensor:
    """Gradient ascent, which unlearns the answers: -L(x) (SafePatching, section 3.1)."""
    return -losses


def descent(losses: Tensor) -> Tensor:
    """Gradient descent, which learns the answers: L(x) (SafePatching, section 3.1)."""
    return losses


OBJECTIVES: dict[str, Objective] = {"ascent": ascent, "descent": descent}
