"""What decoupled refusal training (DeRTa, arXiv 2407.09121, section 2.2) makes of D_h and refusals.

One part of D_h keeps its harmful answers, at every token of which the refusal's first token is
learned (Reinforced Transition Optimization). In the rest the refusal stands behind a beginning of
the harmful answer, of random length (MLE with Harmful Response Prefix). All is drawn once, from the
recipe's seed: so it is the same on any number of processes, in every epoch, and after a resume.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from merge.common.errors import UserError
from train.chat.example import Example
from train.chat.prompts import IGNORED_LABEL, ChatPrompts
from train.data.batches import TokenizedExample, order_seed
from train.settings import DertaSettings, TrainingSettings


@dataclass(frozen=True)
class DecoupledRefusals:
    """The two parts of D_h, tokenized."""

    transitions: Sequence[TokenizedExample]
    """Pairs of D_h as they are."""
    first_tokens: Sequence[int]
    """The token that the refusal of each of these begins with."""
    refusals: Sequence[TokenizedExample]
    """The other questions, each with a beginning of its harmful answer, or none, and a refusal; the
    labels are the refusal's alone."""


class Draw(NamedTuple):
    """What is drawn for the pairs of D_h."""

    transitions: list[int]
    """Numbers of the pairs of the first part, in order."""
    prefixes: dict[int, float | None]
    """By number, in order, of every other pair where in its answer the harmful beginning ends, as a
    fraction in [0, 1); None is for no beginning."""
    refusals: list[int]
    """For every pair the number of the refusal that it gets if it has none of its own."""


def draw_parts(settings: DertaSettings, pairs: int, refusals: int, seed: int) -> Draw:
    """Draw the parts of D_h, the lengths of the beginnings, and the refusals.

    Args:
        pairs: of D_h, two at least; either part gets one at least.
        refusals: from which one is drawn for every pair.
        seed: the recipe's.
    """
    generator = np.random.Generator(np.random.Philox(key=order_seed(seed, "derta")))
    order = generator.permutation(pairs).tolist()
    count = min(max(round(settings.transition_share * pairs), 1), pairs - 1)
    rest = order[count:]
    empty = set(rest[: round(settings.empty_share * len(rest))])
    places = generator.random(pairs).tolist()
    return Draw(
        transitions=sorted(order[:count]),
        prefixes={number: None if number in empty else places[number] for number in sorted(rest)},
        refusals=generator.integers(refusals, size=pairs).tolist(),
    )


def decouple_refusals(
    prompts: ChatPrompts,
    settings: TrainingSettings,
    examples: Sequence[Example],
    tokenized: Sequence[TokenizedExample],
    refusals: Sequence[Example],
    seed: int,
) -> DecoupledRefusals:
    """Make both parts of D_h.

    Args:
        examples: D_h.
        tokenized: D_h, tokenized.
        refusals: questions with refusals, one at least; a question of D_h that is among them gets
            its own (the first one), any other a random one.

    Raises:
        UserError: D_h has too few pairs, or a question leaves no room for its refusal.
    """
    if len(examples) < 2:
        raise UserError(
            "data: has 1 pair, and objective derta needs one for each of its two parts; give more"
        )
    drawn = draw_parts(settings.derta, len(examples), len(refusals), seed)
    own = _by_question(refusals)
    length = settings.max_length
    refused = [
        prompts.example(pair.question, own.get(pair.question, refusals[number].answer), length)
        for pair, number in zip(examples, drawn.refusals, strict=True)
    ]
    return DecoupledRefusals(
        transitions=[tokenized[number] for number in drawn.transitions],
        first_tokens=[_answer_ids(refused[number])[0] for number in drawn.transitions],
        refusals=[
            _behind_beginning(prompts, examples[number], refused[number], place, length)
            for number, place in drawn.prefixes.items()
        ],
    )


def _by_question(refusals: Sequence[Example]) -> Mapping[str, str]:
    return {pair.question: pair.answer for pair in reversed(refusals)}


def _behind_beginning(
    prompts: ChatPrompts,
    pair: Example,
    refused: TokenizedExample,
    place: float | None,
    max_length: int,
) -> TokenizedExample:
    """The refusal behind 1 to all tokens of the harmful answer, as far as there is room for both.

    Joined as tokens: a tokenizer that reads both as one text may make other tokens at the border,
    of which the refusal's first one would not be that of the other part.
    """
    whole = prompts.example(pair.question, pair.answer)
    # Without the end of the turn, behind which nothing is answered.
    harmful, refusal = _answer_ids(whole)[:-1], _answer_ids(refused)
    asked = whole[0][: whole[1].count(IGNORED_LABEL)]
    room = min(len(harmful), max_length - len(refused[0]))
    if place is None or room < 1:
        return refused
    before = asked + harmful[: 1 + int(place * room)]
    return before + refusal, [IGNORED_LABEL] * len(before) + refusal


def _answer_ids(example: TokenizedExample) -> list[int]:
    ids, labels = example
    return ids[labels.count(IGNORED_LABEL) :]
