"""The refusal margins of many prompts: one forward pass each, no generation (issue 14)."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from eval.answering.choices import ChoiceQuestion, likelihoods
from train.guards.refusal_margin import RefusalOpenings, margins


def refusal_margins(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    openings: RefusalOpenings,
    batch_tokens: int,
    temperature: float = 1.0,
) -> list[float]:
    """The log-odds that the model's answer to each prompt opens as a refusal.

    Args:
        prompts: token ids up to where the answer begins.
        openings: at least one.
        batch_tokens: rows x (prompt + opening) of one batch stay at or below this.
        temperature: what the logits are divided by.

    Returns:
        One value per prompt, in nats; see ``train.guards.refusal_margin``.
    """
    questions = [ChoiceQuestion(prompt, openings.tokens) for prompt in prompts]
    log_likelihoods = [
        [opening.total for opening in row]
        for row in likelihoods(model, questions, batch_tokens, temperature)
    ]
    return margins(torch.tensor(log_likelihoods, dtype=torch.float64)).tolist()
