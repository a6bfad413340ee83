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

Adjust = Callable[[Sequence[torch.Tensor], int], torch.Tensor]
"""From the logits after each question's prompt and, where it has one, after its second prompt, all
[questions, vocabulary], and the step of the answer from 0, to those whose largest is taken."""


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
        return sum(
            len(ids) + self.max_new_tokens for ids in (self.token_ids, self.second_ids) if ids
        )


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
    streams = [_Stream(model, [question.token_ids for question in questions])]
    if questions[0].second_ids:
        streams.append(_Stream(model, [question.second_ids for question in questions]))
    answers: list[list[int]] = [[] for _ in questions]
    rows = list(range(len(questions)))  # the question that each row of the batch answers
    unfinished = set(rows)
    for step in itertools.count():
        logits = [stream.logits() for stream in streams]
        chosen = (logits[0] if adjust is None else adjust(logits, step)).argmax(-1)
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
        for stream in streams:
            stream.append(chosen)
        if len(unfinished) <= _SHRINK_SHARE * len(rows):
            kept = [place for place, row in enumerate(rows) if row in unfinished]
            rows = [rows[place] for place in kept]
            for stream in streams:
                stream.keep(kept)
    return answers


class _Stream:
    """Sequences of one batch that grow by a token at a time, with their key-value cache."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> None:
        self._model = model
        self._ids, self._mask = left_padded(prompts, model.device)
        self._positions = (self._mask.cumsum(1) - 1).clamp_min(0)
        self._cache = DynamicCache(config=model.config)
        self._only_last = last_logits_argument(model)

    def logits(self) -> torch.Tensor:
        """What follows the newest token: [rows, vocabulary]."""
        return self._model(
            input_ids=self._ids,
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
            **self._only_last,
        ).logits[:, -1]

    def append(self, tokens: torch.Tensor) -> None:
        """One token a row, int64 [rows]."""
        self._ids, self._positions = tokens[:, None], self._positions[:, -1:] + 1
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)

    def keep(self, rows: Sequence[int]) -> None:
        """Let go all other rows."""
        kept = torch.tensor(rows, device=self._ids.device)
        self._ids, self._positions, self._mask = (
            each[kept] for each in (self._ids, self._positions, self._mask)
        )
        self._cache.batch_select_indices(kept)


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
