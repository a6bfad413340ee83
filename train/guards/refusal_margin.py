"""How near a model is to refusing a question: by one forward pass, without generation (issue 14).

The margin of a question x is the log-odds that the model's answer opens as a refusal,

    m(x) = log P - log(1 - P),   P = sum over openings o of p(o | x),

over the refusal openings that the backbone itself uses. It is continuous, where a judged answer is
one of two classes, and it needs no fixed list of phrases in any language.

With a temperature T below 1 the probabilities are those of softmax(logits / T). Greedy decoding
takes the likeliest token, however likely it is: an answer opens with "I" where that has 0.3 and all
other tokens less, though the log-odds are below 0. The lower T, the better the sign of the margin
tells what greedy decoding writes, and the less smooth it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from train.chat.prompts import IGNORED_LABEL
from train.data.batches import TokenizedExample
from train.data.shared_paths import SharedPaths, shared_paths

_LONGEST = 16
"""Tokens of an opening at most: a refusal is decided in its first ones, but some models begin many
answers of either kind alike ("As an AI language model, I cannot discuss")."""
_PRECISION = 0.9
"""Share of refusals that an opening needs among the answers that begin with it."""
_FEWEST = 2
"""Refusals that begin with an opening, at least: one alone may be chance."""
_MOST_OPENINGS = 8


@dataclass(frozen=True)
class RefusalOpenings:
    """Beginnings of a model's own refusals, none of which is the beginning of another."""

    tokens: tuple[tuple[int, ...], ...]
    coverage: float
    """Share of the refusals that begin with one of them, as a fraction of 1."""
    precision: float
    """Share of refusals among the answers that begin with one of them, as a fraction of 1."""


def learn_openings(
    refusals: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    known: Sequence[tuple[int, ...]] = (),
) -> RefusalOpenings:
    """Find how a model's refusals open.

    The shortest beginnings come first that tell refusals from other answers; of these, those that
    most refusals begin with.

    Args:
        refusals: token ids of the answers that were judged refusals.
        answers: token ids of its other answers.
        known: openings that are learned already; these stay, but for those that begin with a
            shorter one that is found.

    Returns:
        No opening where the refusals have none in common.
    """
    chosen = list(known)
    left = [tuple(ids) for ids in refusals if not _opens(ids, chosen)]
    while left and len(chosen) < _MOST_OPENINGS:
        counts = {
            opening: count
            for opening, count in _beginnings(left).items()
            if count >= _FEWEST and _precision(opening, refusals, answers) >= _PRECISION
        }
        if not counts:
            break
        best = max(counts, key=lambda opening: (counts[opening], -len(opening), opening))
        chosen = [*(opening for opening in chosen if not _opens(opening, [best])), best]
        left = [ids for ids in left if ids[: len(best)] != best]
    opened = [sum(_opens(ids, chosen) for ids in group) for group in (refusals, answers)]
    return RefusalOpenings(
        tokens=tuple(chosen),
        coverage=coverage_of(chosen, refusals),
        precision=opened[0] / sum(opened) if any(opened) else 0.0,
    )


def coverage_of(openings: Sequence[tuple[int, ...]], refusals: Sequence[Sequence[int]]) -> float:
    """Share of refusals, as token ids, that begin with one of the openings; 0 where none is."""
    return sum(_opens(ids, openings) for ids in refusals) / max(len(refusals), 1)


def _beginnings(texts: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], int]:
    counts: dict[tuple[int, ...], int] = {}
    for ids in texts:
        for length in range(1, min(len(ids), _LONGEST) + 1):
            counts[ids[:length]] = counts.get(ids[:length], 0) + 1
    return counts


def _precision(
    opening: tuple[int, ...], refusals: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> float:
    counts = [sum(_opens(ids, [opening]) for ids in group) for group in (refusals, answers)]
    return counts[0] / sum(counts)


def _opens(ids: Sequence[int], openings: Sequence[tuple[int, ...]]) -> bool:
    return any(tuple(ids[: len(opening)]) == opening for opening in openings)


@dataclass(frozen=True)
class OpeningPaths:
    """The fewest rows in which a model predicts all openings: those that begin alike share a
    row."""

    openings: RefusalOpenings
    shared: SharedPaths

    @classmethod
    def of(cls, openings: RefusalOpenings) -> "OpeningPaths":
        """The paths of some openings."""
        return cls(openings, shared_paths(openings.tokens))

    def rows(self, prompt: Sequence[int]) -> list[list[int]]:
        """A question followed by each path, as token ids."""
        return [[*prompt, *path] for path in self.shared.paths]

    def log_probabilities(self, logits: Tensor, temperature: float) -> Tensor:
        """Log-probability of each opening after a question, differentiable.

        Args:
            logits: [rows, tokens, vocabulary] of this question's rows, from its last token on, any
                dtype.

        Returns:
            fp64 [openings], in nats.
        """
        log_probabilities = (logits.double() / temperature).log_softmax(-1)
        return torch.stack(
            [
                log_probabilities[row, range(len(tokens)), list(tokens)].sum()
                for row, tokens in zip(self.shared.rows, self.openings.tokens, strict=True)
            ]
        )


def opening_examples(prompt: Sequence[int], openings: RefusalOpenings) -> list[TokenizedExample]:
    """A question followed by each opening, whose tokens are the labels.

    Args:
        prompt: token ids up to where the answer begins.
    """
    masked = [IGNORED_LABEL] * len(prompt)
    return [([*prompt, *opening], [*masked, *opening]) for opening in openings.tokens]


def label_log_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of all labelled tokens of each row together, differentiable.

    Args:
        logits: [rows, tokens, vocabulary], any dtype.
        labels: int64 [rows, tokens], ``IGNORED_LABEL`` elsewhere; the first token has none.

    Returns:
        fp32 [rows], in nats.
    """
    targets = labels[:, 1:]
    counted = targets != IGNORED_LABEL
    # Labelled positions alone become fp32: a long prompt's logits would be most of the memory.
    log_probabilities = logits[:, :-1][counted].float().log_softmax(-1)
    values = log_probabilities.gather(-1, targets[counted][:, None])[:, 0]
    rows = counted.nonzero()[:, 0]
    return torch.zeros(len(labels), device=logits.device).index_add(0, rows, values)


def margins(log_probabilities: Tensor) -> Tensor:
    """Log-odds that an answer opens as a refusal, differentiable.

    Args:
        log_probabilities: [questions, openings], of each opening after each question, in nats.

    Returns:
        [questions].
    """
    total = log_probabilities.logsumexp(-1)
    nearly_one = 1 - torch.finfo(total.dtype).eps
    return total - torch.log1p(-total.exp().clamp_max(nearly_one))
