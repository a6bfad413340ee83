"""Greedy batched generation: prompts sorted by length, left padding, finished rows let go."""

import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

# A batch is gathered anew when this share of its rows, or less, is still being answered: below
# it the rows saved are worth the copy of the key-value cache.
_SHRINK_SHARE = 0.75

Adjust = Callable[[torch.Tensor, int], torch.Tensor]
"""From the model's logits [inputs, vocabulary] at a step of the answer, counted from 0, to those
[questions, vocabulary] whose largest is taken. The inputs are the batch's prompts and then, where
its questions have a second one, the second prompts in the same order."""


@dataclass(frozen=True)
class Question:
    """A tokenised prompt and the number of tokens that its answer may have.

    Attributes:
        second_ids: another prompt that the same answer continues, or none; all questions that
            are asked together have one, or none has.
    """

    token_ids: Sequence[int]
    max_new_tokens: int
    second_ids: Sequence[int] = ()

    @property
    def width(self) -> int:
        """Tokens that its rows of the key-value cache need."""
        longest = max(len(self.token_ids), len(self.second_ids)) + self.max_new_tokens
        return longest * (2 if self.second_ids else 1)


def generate(
    model: PreTrainedModel,
    questions: Sequence[Question],
    eos_ids: frozenset[int],
    batch_tokens: int,
    adjust: Adjust | None = None,
) -> Iterator[dict[int, list[int]]]:
    """Answer all questions greedily, longest first, so that a lack of memory shows at once.

    The answers are those of ``model.generate(do_sample=False)`` without penalties or forced
    tokens: the argmax of the logits at each step. It is a loop of its own because ``generate``
    keeps a finished row in its batch until the longest one ends.

    Args:
        eos_ids: tokens that end an answer; they are not part of it.
        batch_tokens: rows x (prompt + new tokens) of one batch stay at or below this.
        adjust: changes the logits before the largest is taken.

    Yields:
        For each batch, the answer's tokens by the question's index.
    """
    for batch in batches_by_length([question.width for question in questions], batch_tokens):
        answers = _generate_batch(model, [questions[index] for index in batch], eos_ids, adjust)
        yield dict(zip(batch, answers, strict=True))


def batches_by_length(widths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices in batches of similar width, widest first; a batch has at least one row."""
    batches: list[list[int]] = []
    capacity = 0
    for index in sorted(range(len(widths)), key=lambda index: -widths[index]):
        if not batches or len(batches[-1]) >= capacity:
            batches.append([])
            capacity = max(1, batch_tokens // max(1, widths[index]))
        batches[-1].append(index)
    return batches


@torch.inference_mode()
def _generate_batch(
    model: PreTrainedModel,
    questions: Sequence[Question],
    eos_ids: frozenset[int],
    adjust: Adjust | None,
) -> list[list[int]]:
    """Greedy answers of one batch, without the ending token."""
    prompts = [question.token_ids for question in questions]
    prompts += [question.second_ids for question in questions if question.second_ids]
    copies = len(prompts) // len(questions)
    ids, mask = left_padded(prompts, model.device)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    cache = DynamicCache(config=model.config)
    only_last = last_logits_argument(model)
    answers: list[list[int]] = [[] for _ in questions]
    rows = list(range(len(questions)))  # the question that each row of the batch answers
    unfinished = set(rows)
    for step in itertools.count():
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **only_last,
        ).logits[:, -1]
        chosen = (logits if adjust is None else adjust(logits, step)).argmax(-1)
        for row, token in zip(rows, chosen.tolist(), strict=True):
            if row not in unfinished:
                continue
            if token in eos_ids:
                unfinished.discard(row)
                continue
            answers[row].append(token)
            if len(answers[row]) >= questions[row].max_new_tokens:
                unfinished.discard(row)
        if not unfinished:
            break
        ids, positions = chosen.repeat(copies)[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        if len(unfinished) <= _SHRINK_SHARE * len(rows):
            places = [place for place, row in enumerate(rows) if row in unfinished]
            kept = torch.tensor(
                [place + copy * len(rows) for copy in range(copies) for place in places],
                device=ids.device,
            )
            rows = [row for row in rows if row in unfinished]
            ids, positions, mask = ids[kept], positions[kept], mask[kept]
            cache.batch_select_indices(kept)
    return answers


def left_padded(
    sequences: Sequence[Sequence[int]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both int64 [rows, longest], with the padding on the left.

    The padding's id does not matter, as the mask hides it: 0.
    """
    longest = max(len(sequence) for sequence in sequences)
    ids = [[0] * (longest - len(sequence)) + list(sequence) for sequence in sequences]
    mask = [[0] * (longest - len(sequence)) + [1] * len(sequence) for sequence in sequences]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def last_logits_argument(model: PreTrainedModel, count: int = 1) -> dict[str, Any]:
    """The argument that spares a model the logits of all but the last ``count`` positions."""
    known = inspect.signature(model.forward).parameters
    return {"logits_to_keep": count} if "logits_to_keep" in known else {}


def ending_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end an answer: the generation config's, and the tokenizer's own."""
    generation_config = model.generation_config
    configured = generation_config.eos_token_id if generation_config else None
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [*ids, tokenizer.eos_token_id] if isinstance(token, int))
