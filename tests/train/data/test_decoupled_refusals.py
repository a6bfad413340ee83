"""What DeRTa makes of D_h: its parts, the harmful beginnings and the refusals, as the seed says."""

from collections.abc import Sequence

import pytest

from merge.common.errors import UserError
from tests.support.train_helpers import make_tokenizer
from train.chat.example import Example
from train.chat.prompts import ChatPrompts
from train.data.decoupled_refusals import DecoupledRefusals, decouple_refusals, draw_parts
from train.settings import DertaSettings, SafetyTraining

PROMPTS = ChatPrompts(make_tokenizer())
PAIRS = [
    Example(f"w{number} w{number + 1}", " ".join(f"w{number + i}" for i in range(1 + number % 7)))
    for number in range(40)
]
REFUSALS = [Example("w4 w5", "w80 w81"), Example("w4 w5", "w82"), Example("else", "w83 w81 w81")]
"""Refusals of a question of D_h, two of them, and of another question."""
END = PROMPTS.stop_ids[0]


def ids_of(text: str) -> list[int]:
    return PROMPTS.text_ids(text)


def decoupled(
    pairs: Sequence[Example] = PAIRS,
    refusals: Sequence[Example] = REFUSALS,
    seed: int = 3,
    max_length: int = 512,
) -> DecoupledRefusals:
    settings = SafetyTraining(objective="derta", max_length=max_length)
    tokenized = [PROMPTS.example(pair.question, pair.answer, max_length) for pair in pairs]
    return decouple_refusals(PROMPTS, settings, pairs, tokenized, refusals, seed)


@pytest.mark.parametrize(
    ("pairs", "share", "sizes"),
    [(60, 0.5, (30, 10)), (41, 0.25, (10, 10)), (2, 0.01, (1, 0)), (3, 0.99, (2, 0))],
)
def test_every_pair_is_in_one_part_and_a_third_has_no_beginning(
    pairs: int, share: float, sizes: tuple[int, int]
) -> None:
    drawn = draw_parts(DertaSettings(transition_share=share), pairs, 5, seed=1)
    assert sorted([*drawn.transitions, *drawn.prefixes]) == list(range(pairs))
    assert drawn.transitions == sorted(drawn.transitions)
    empty = sum(place is None for place in drawn.prefixes.values())
    assert (len(drawn.transitions), empty) == sizes
    assert set(drawn.refusals) <= set(range(5))


def test_the_seed_alone_draws() -> None:
    one, again = (draw_parts(DertaSettings(), 30, 4, seed=7) for _ in range(2))
    assert one == again
    other = draw_parts(DertaSettings(), 30, 4, seed=8)
    assert one.transitions != other.transitions and one.refusals != other.refusals
    # So does nothing that comes with the refusals.
    assert draw_parts(DertaSettings(), 30, 9, seed=7)[:2] == one[:2]


def test_beginnings_have_any_length_up_to_the_whole_answer() -> None:
    """Rebuilt by hand: the question, so many tokens of its own answer, and the refusal, learned."""
    parts = decoupled()
    drawn = draw_parts(DertaSettings(), len(PAIRS), len(REFUSALS), seed=3)
    shares = []
    for (number, place), (ids, labels) in zip(drawn.prefixes.items(), parts.refusals, strict=True):
        pair = PAIRS[number]
        asked, harmful = PROMPTS.question_ids(pair.question), ids_of(pair.answer)
        chosen = REFUSALS[0] if number == 4 else REFUSALS[drawn.refusals[number]]
        refusal = [*ids_of(chosen.answer), END]
        assert ids[: len(asked)] == asked and ids[-len(refusal) :] == refusal
        beginning = ids[len(asked) : -len(refusal)]
        assert beginning == harmful[: len(beginning)] and (place is None) == (not beginning)
        assert labels == [-100] * (len(ids) - len(refusal)) + refusal
        if len(harmful) > 1:
            shares.append(len(beginning) / len(harmful))
    assert min(shares) == 0 and max(shares) == 1 and len(set(shares)) > 5


def test_harmful_answers_expect_the_first_token_of_their_refusal() -> None:
    """A question with a refusal of its own gets that, the first one; the others a random one."""
    parts = decoupled()
    drawn = draw_parts(DertaSettings(), len(PAIRS), len(REFUSALS), seed=3)
    for number, sample, token in zip(
        drawn.transitions, parts.transitions, parts.first_tokens, strict=True
    ):
        pair = PAIRS[number]
        assert sample == PROMPTS.example(pair.question, pair.answer)
        chosen = REFUSALS[0] if number == 4 else REFUSALS[drawn.refusals[number]]
        assert token == ids_of(chosen.answer)[0]
    own = decoupled([PAIRS[4]] * 20, [REFUSALS[2]] * 30 + [REFUSALS[0]])
    assert set(own.first_tokens) == {ids_of("w80")[0]}


def test_a_beginning_gives_way_to_the_refusal_where_the_length_ends() -> None:
    """All ids fit; the refusal keeps its end of turn as long as it would without a beginning."""
    refusal = [Example("else", "w83 w81 w82")]
    questions = len(PROMPTS.question_ids(PAIRS[0].question))
    for spare in (0, 2):
        parts = decoupled(refusals=refusal, max_length=questions + 4 + spare)
        beginnings = [len(ids) - questions - 4 for ids, _ in parts.refusals]
        assert set(beginnings) == set(range(spare + 1))
        assert all(ids[-1] == END for ids, _ in parts.refusals)


def test_one_pair_has_no_two_parts() -> None:
    with pytest.raises(UserError, match="has 1 pair, and objective derta needs"):
        decoupled(PAIRS[:1])
