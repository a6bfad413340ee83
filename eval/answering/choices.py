"""How likely a model finds given continuations of a prompt, by forward passes alone.

Multiple choice asks it (which answer is likeliest per token?), and the refusal margin does (how
likely is an answer that opens as a refusal?).
"""

import inspect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from transformers import DynamicCache, PreTrainedModel

from eval.answering.token_streams import (
    ALIKE_IN_A_PASS,
    Memory,
    batches_of_equals,
    forward_arguments,
    last_logits_argument,
    left_padded,
    memory_of,
)
from eval.settings import MOST_LOGITS
from train.data.shared_paths import shared_paths

_FEWEST_SHARED = 8
"""Tokens that prompts must have in common, or one forward pass more costs as much as it saves."""


@dataclass(frozen=True)
class ChoiceQuestion:
    """A tokenised prompt and what may follow it; each choice has at least one token."""

    prompt_ids: Sequence[int]
    choices: Sequence[Sequence[int]]

    @property
    def width(self) -> int:
        """Tokens that its rows of the key-value cache need."""
        return self._rows * len(self.prompt_ids) + self.predicted

    @property
    def predicted(self) -> int:
        """Tokens of its rows after the prompt, each of which has logits."""
        return self._rows * max(map(len, self.choices))

    @cached_property
    def _rows(self) -> int:
        return len(shared_paths(self.choices).paths)


def mean_log_likelihoods(
    model: PreTrainedModel, questions: Sequence[ChoiceQuestion], batch_tokens: int
) -> list[list[float]]:
    """Mean log-probability of the tokens of every choice, in nats per token.

    Returns:
        For each question one value per choice: (1/|choice|) * sum over its tokens of
        log p(token | prompt, tokens before).
    """
    rows = likelihoods(model, questions, batch_tokens)
    return [
        [each.total / len(choice) for each, choice in zip(row, question.choices, strict=True)]
        for row, question in zip(rows, questions, strict=True)
    ]


class Likelihood(NamedTuple):
    """How likely a choice follows its prompt."""

    total: float
    """Sum over the choice's tokens of log p(token | prompt, tokens before), in nats."""
    lead: float
    """Smallest lead over the choice's tokens, in nats: log-probability of the token minus that of
    the likeliest other one. Above 0 where greedy decoding would write the choice."""


def likelihoods(
    model: PreTrainedModel,
    questions: Sequence[ChoiceQuestion],
    batch_tokens: int,
    temperature: float = 1.0,
) -> list[list[Likelihood]]:
    """How likely every choice is, all of its tokens together.

    A prompt is read once for all of its choices, and what all prompts of a batch begin with once
    for all of them; a model with recurrent layers, whose state is that of one continuation, reads
    all with each.

    Args:
        batch_tokens: rows x (prompt + choice) of one batch stay at or below this; fewer where the
            logits would take too much memory.
        temperature: what the logits are divided by before they are probabilities.

    Returns:
        For each question one value per choice.
    """
    scores: list[list[Likelihood]] = [[] for _ in questions]
    if not questions:
        return scores
    memory = memory_of(model)
    most_predicted = MOST_LOGITS // model.config.get_text_config().vocab_size
    for batch in _batches(questions, batch_tokens, most_predicted):
        asked = [questions[index] for index in batch]
        batch_scores = _score_batch(model, memory, asked, temperature)
        for index, row in zip(batch, batch_scores, strict=True):
            scores[index] = row
    return scores


def _batches(
    questions: Sequence[ChoiceQuestion], batch_tokens: int, most_predicted: int
) -> Iterator[list[int]]:
    """Places of questions that fit together; one batch has logits of so many tokens at most.

    They have a similar width, and longest choices with the same number of binary digits.
    """
    widths = [question.width for question in questions]
    lengths = [max(map(len, question.choices)).bit_length() for question in questions]
    for alike in batches_of_equals(widths, lengths, batch_tokens, ALIKE_IN_A_PASS):
        predicted = max(questions[place].predicted for place in alike)
        step = max(1, most_predicted // predicted)
        yield from (alike[start : start + step] for start in range(0, len(alike), step))


@torch.inference_mode()
def _score_batch(
    model: PreTrainedModel,
    memory: Memory,
    questions: Sequence[ChoiceQuestion],
    temperature: float,
) -> list[list[Likelihood]]:
    if memory.is_recurrent:
        return [_score_whole(model, question, temperature) for question in questions]
    prompts = [question.prompt_ids for question in questions]
    shared = _shared_tokens(model, prompts)
    cache = _read_once(model, prompts[0][:shared], len(prompts))
    ids, mask = left_padded([prompt[shared:] for prompt in prompts], model.device)
    mask = torch.cat([mask.new_ones(len(prompts), shared), mask], dim=1)
    first = model(
        **forward_arguments(model, ids, mask),
        past_key_values=cache,
        use_cache=True,
        **last_logits_argument(model),
    ).logits[:, -1:]
    shared = [shared_paths(question.choices) for question in questions]
    owners = [number for number, each in enumerate(shared) for _ in each.paths]
    paths = [path for each in shared for path in each.paths]
    later = first[owners, :0]
    if max(map(len, paths)) > 0:
        later = _later_logits(model, cache, owners, paths, mask)
    scores: list[list[Likelihood]] = []
    for number, (question, each) in enumerate(zip(questions, shared, strict=True)):
        rows, later = later[: len(each.paths)], later[len(each.paths) :]
        scores.append(
            [
                _likelihood(
                    torch.cat([first[number], rows[row][: len(choice) - 1]]), choice, temperature
                )
                for row, choice in zip(each.rows, question.choices, strict=True)
            ]
        )
    return scores


def _shared_tokens(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, less one that each reads for itself; 0 if too few."""
    columns = zip(*prompts, strict=False)
    alike = itertools.takewhile(lambda column: len(set(column)) == 1, columns)
    shared = min(sum(1 for _ in alike), *(len(prompt) - 1 for prompt in prompts))
    if shared < _FEWEST_SHARED or len(prompts) == 1:
        return 0
    # Padding then stands between the beginning and the rest, where not every model ignores it.
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return 0
    config = model.config.get_text_config()
    windows = (getattr(config, key, None) for key in ("sliding_window", "attention_chunk_size"))
    fits = all(window is None or max(map(len, prompts)) <= window for window in windows)
    return shared if fits else 0


def _read_once(model: PreTrainedModel, ids: Sequence[int], rows: int) -> DynamicCache:
    """The cache of so many rows that have all read the same tokens; empty where there are none."""
    cache = DynamicCache(config=model.config)
    if ids:
        read = torch.tensor([ids], device=model.device)
        arguments = forward_arguments(model, read, torch.ones_like(read))
        model(**arguments, past_key_values=cache, use_cache=True, **last_logits_argument(model))
        cache.batch_repeat_interleave(rows)
    return cache


def _later_logits(
    model: PreTrainedModel,
    cache: DynamicCache,
    owners: Sequence[int],
    paths: Sequence[Sequence[int]],
    mask: torch.Tensor,
) -> torch.Tensor:
    """What follows each token of the paths: [paths, longest path, vocabulary].

    Args:
        cache: of the prompts; it is used up.
        owners: the prompt of each path.
        paths: of which one at least has a token.
        mask: of the prompts, int64 [prompts, longest prompt].
    """
    longest = max(map(len, paths))
    rows = torch.tensor(owners, device=mask.device)
    cache.batch_select_indices(rows)
    padding = [longest - len(path) for path in paths]
    ids = [[*path, *[0] * count] for path, count in zip(paths, padding, strict=True)]
    known = [[1] * (longest - count) + [0] * count for count in padding]
    # As if the padding were there: positions go on counting, and nothing looks at what it says.
    arguments = forward_arguments(
        model,
        torch.tensor(ids, device=mask.device),
        torch.cat([mask[rows], mask.new_ones(len(ids), longest)], dim=1),
    )
    if "attention_mask" in arguments:
        read = torch.tensor(known, device=mask.device)
        arguments["attention_mask"] = torch.cat([mask[rows], read], dim=1)
    return model(**arguments, past_key_values=cache, use_cache=True).logits


def _score_whole(
    model: PreTrainedModel, question: ChoiceQuestion, temperature: float
) -> list[Likelihood]:
    """Every choice of one question with its prompt, in one batch padded on the right.

    What stands after a token changes nothing before it, in recurrent layers either.
    """
    longest = max(map(len, question.choices))
    padding = [[0] * (longest - len(choice)) for choice in question.choices]
    rows = [
        [*question.prompt_ids, *choice, *rest]
        for choice, rest in zip(question.choices, padding, strict=True)
    ]
    ids = torch.tensor(rows, device=model.device)
    only_last = last_logits_argument(model, longest + 1)
    arguments = forward_arguments(model, ids, torch.ones_like(ids)) | only_last
    logits = model(**arguments, use_cache=False).logits[:, -longest - 1 : -1]
    return [
        _likelihood(follows[: len(choice)], choice, temperature)
        for follows, choice in zip(logits, question.choices, strict=True)
    ]


def _likelihood(logits: torch.Tensor, tokens: Sequence[int], temperature: float) -> Likelihood:
    """Likelihood of ``tokens`` under logits [tokens, vocabulary].

    It is computed in fp64: log-odds need what is left to 1 where tokens are nearly certain.
    """
    wanted = torch.tensor(tokens, device=logits.device)[:, None]
    log_probabilities = (logits.double() / temperature).log_softmax(-1)
    own = log_probabilities.gather(-1, wanted)[:, 0]
    lead = (own - log_probabilities.scatter(-1, wanted, -torch.inf).amax(-1)).min()
    return Likelihood(own.sum().item(), lead.item())
