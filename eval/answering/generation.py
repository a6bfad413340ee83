"""Greedy batched generation: prompts of similar length, left padding, finished rows let go."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from eval.answering.token_streams import (
    Memory,
    TokenStream,
    batches_of_equals,
    memory_of,
)

# A batch is gathered anew when this share of its rows, or less, is still being answered: below
# it the rows saved are worth the copy of the key-value cache.
_SHRINK_SHARE = 0.75
_ALIKE = 0.5
"""Least ratio of two widths in one batch: padding is cheaper than more steps, but not for twice the
tokens."""

Adjust = Callable[[Sequence[torch.Tensor], int], torch.Tensor]
"""From the logits after each question's prompt and, where it has one, after its second prompt, all
[questions, vocabulary], and the step of the answer from 0, to those whose largest is taken."""


@dataclass(frozen=True)
class Companion:
    """Another model that reads the second prompts, for the first steps of every answer.

    Attributes:
        steps: after so many tokens ``Adjust`` is given the model's own logits alone.
    """

    model: PreTrainedModel
    steps: int


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
    companion: Companion | None = None,
) -> Iterator[dict[int, list[int]]]:
    """Answer all questions greedily, longest first, so that a lack of memory shows at once.

    The answers are those of ``model.generate(do_sample=False)`` without penalties or forced
    tokens: the argmax of the logits at each step. It is a loop of its own because ``generate``
    keeps a finished row in its batch until the longest one ends. Prompts of other lengths share a
    batch only where the model ignores their padding, so recurrent layers change no answer either.

    Args:
        eos_ids: tokens that end an answer; they are not part of it.
        batch_tokens: rows x (prompt + new tokens) of one batch stay at or below this.
        adjust: changes the logits before the largest is taken.
        companion: reads the second prompts in the model's stead.

    Yields:
        For each batch, the answer's tokens by the question's index.
    """
    if not questions:
        return
    memory = memory_of(model)
    other = memory if companion is None else memory_of(companion.model)
    widths = [question.width for question in questions]
    if memory.ignores_padding and other.ignores_padding:
        limits = [question.max_new_tokens for question in questions]
        batches = batches_of_equals(widths, limits, batch_tokens, _ALIKE)
    else:
        lengths = [(len(each.token_ids), len(each.second_ids)) for each in questions]
        batches = batches_of_equals(widths, lengths, batch_tokens)
    for batch in batches:
        asked = [questions[index] for index in batch]
        answers = _generate_batch(model, memory, asked, eos_ids, adjust, companion)
        yield dict(zip(batch, answers, strict=True))


@torch.inference_mode()
def _generate_batch(
    model: PreTrainedModel,
    memory: Memory,
    questions: Sequence[Question],
    eos_ids: frozenset[int],
    adjust: Adjust | None,
    companion: Companion | None,
) -> list[list[int]]:
    """Greedy answers of one batch, without the ending token."""
    streams = [TokenStream(model, memory, [question.token_ids for question in questions])]
    if questions[0].second_ids:
        second = [question.second_ids for question in questions]
        reader = model if companion is None else companion.model
        how = memory if companion is None else memory_of(reader)
        streams.append(TokenStream(reader, how, second))
    answers: list[list[int]] = [[] for _ in questions]
    rows = list(range(len(questions)))  # the question that each row of the batch answers
    unfinished = set(rows)
    for step in itertools.count():
        if companion is not None and step == companion.steps:
            del streams[1:]
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


def ending_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end an answer: the generation config's, and the tokenizer's own."""
    return configured_endings(model.generation_config, tokenizer)


def configured_endings(
    generation_config: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase
) -> frozenset[int]:
    """As ``ending_tokens``, for a model that is not loaded."""
    configured = generation_config.eos_token_id if generation_config else None
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [*ids, tokenizer.eos_token_id] if isinstance(token, int))
