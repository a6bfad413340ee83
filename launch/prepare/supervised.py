"""Plain supervised training on answers, in one process: how the studies' backbones are made."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from train.chat.prompts import IGNORED_LABEL

TokenizedAnswer = tuple[list[int], list[int]]
"""Token ids of question and answer, and labels, -100 on the question (``ChatPrompts.example``)."""


def train_on_answers(
    model: Any,
    batches: Iterable[Sequence[TokenizedAnswer]],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """One optimizer step a batch, on the mean loss of its answers' tokens."""
    for batch in batches:
        ids, labels = (tensor.to(model.device) for tensor in _padded(batch))
        # Padding stands on the right, where causal attention lets no other token see it.
        logits = model(input_ids=ids).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


def _padded(examples: Sequence[TokenizedAnswer]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, both int64 [examples, longest], padded on the right."""
    longest = max(len(ids) for ids, _ in examples)
    ids = [ids + [0] * (longest - len(ids)) for ids, _ in examples]
    labels = [labels + [IGNORED_LABEL] * (longest - len(labels)) for _, labels in examples]
    return torch.tensor(ids), torch.tensor(labels)
