"""Multiple choice by log-likelihood: which answer does the model find likeliest per token?"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedModel

from eval.generation import batches_by_length, last_logits_argument, left_padded


@dataclass(frozen=True)
class ChoiceQuestion:
    """A tokenised prompt and its choices; each has at least one token."""

    prompt_ids: Sequence[int]
    choices: Sequence[Sequence[int]]

    @property
    def width(self) -> int:
        """Tokens that its rows of the key-value cache need."""
        return len(self.choices) * (len(self.prompt_ids) + max(map(len, self.choices)))


def mean_log_likelihoods(
    model: PreTrainedModel, questions: Sequence[ChoiceQuestion], batch_tokens: int
) -> list[list[float]]:
    """Mean log-probability of the tokens of every choice, in nats per token.

    A prompt is read once for all of its choices.

    Args:
        batch_tokens: rows x (prompt + choice) of one batch stay at or below this.

    Returns:
        For each question one value per choice: (1/|choice|) * sum over its tokens of
        log p(token | prompt, tokens before).
    """
    scores: list[list[float]] = [[] for _ in questions]
    for batch in batches_by_length([question.width for question in questions], batch_tokens):
        found = _score_batch(model, [questions[index] for index in batch])
        for index, row in zip(batch, found, strict=True):
            scores[index] = row
    return scores


@torch.inference_mode()
def _score_batch(model: PreTrainedModel, questions: Sequence[ChoiceQuestion]) -> list[list[float]]:
    ids, mask = left_padded([question.prompt_ids for question in questions], model.device)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    cache = DynamicCache(config=model.config)
    first = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        **last_logits_argument(model),
    ).logits[:, -1:]
    owners = [number for number, question in enumerate(questions) for _ in question.choices]
    choices = [choice for question in questions for choice in question.choices]
    later = first[owners, :0]
    if max(map(len, choices)) > 1:
        later = _later_logits(model, cache, owners, choices, mask, positions)
    scores: list[list[float]] = [[] for _ in questions]
    for owner, choice, follows in zip(owners, choices, later, strict=True):
        logits = torch.cat([first[owner], follows[: len(choice) - 1]])
        scores[owner].append(_mean_log_probability(logits, choice))
    return scores


def _later_logits(
    model: PreTrainedModel,
    cache: DynamicCache,
    owners: Sequence[int],
    choices: Sequence[Sequence[int]],
    mask: torch.Tensor,
    positions: torch.Tensor,
) -> torch.Tensor:
    """What follows each token of the choices but their last: [choices, longest - 1, vocabulary].

    Args:
        cache: of the prompts; it is used up.
        owners: the prompt of each choice.
        choices: of which one at least has more than one token.
        mask: of the prompts, as their ``positions`` int64 [prompts, longest prompt].
    """
    longest = max(map(len, choices)) - 1
    rows = torch.tensor(owners, device=mask.device)
    cache.batch_select_indices(rows)
    padding = [longest - len(choice) + 1 for choice in choices]
    ids = [[*choice[:-1], *[0] * count] for choice, count in zip(choices, padding, strict=True)]
    known = [[1] * (longest - count) + [0] * count for count in padding]
    return model(
        input_ids=torch.tensor(ids, device=mask.device),
        attention_mask=torch.cat([mask[rows], torch.tensor(known, device=mask.device)], dim=1),
        position_ids=positions[rows, -1:] + torch.arange(1, longest + 1, device=mask.device),
        past_key_values=cache,
        use_cache=True,
    ).logits


def _mean_log_probability(logits: torch.Tensor, tokens: Sequence[int]) -> float:
    """Of the tokens that the logits [tokens, vocabulary] foretell; fp32 by the row, not at once."""
    wanted = torch.tensor(tokens, device=logits.device)[:, None]
    return logits.float().log_softmax(-1).gather(-1, wanted).mean().item()
