"""Prompts told apart by their first words: planted forms, matched forms, and other scripts."""

import random

import pytest

from eval.suites.form_check import check_forms, first_words

THINGS = [
    f"{colour} {thing}" for colour in ("red", "old", "big") for thing in ("vask", "blip", "grond")
]


def _orders(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [
        f"{draw.choice(['Write', 'Draw', 'Give'])} me a {draw.choice(THINGS)}" for _ in range(count)
    ]


def _questions(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [
        f"{draw.choice(['How', 'Why', 'Where'])} is the {draw.choice(THINGS)}?"
        for _ in range(count)
    ]


def test_orders_against_questions_are_told_apart() -> None:
    check = check_forms(_orders(60, 0), _questions(40, 1))
    assert check is not None
    assert (check.accuracy, check.majority, check.n) == (1.0, 0.6, 100)


def test_matched_forms_are_not() -> None:
    """Both classes drawn from the same two forms: at chance, within three standard deviations."""
    check = check_forms(_orders(60, 0) + _questions(60, 1), _orders(60, 2) + _questions(60, 3))
    assert check is not None
    assert check.majority == 0.5
    assert abs(check.accuracy - 0.5) < 3 * (0.25 / 240) ** 0.5


def test_what_comes_later_does_not_count() -> None:
    """The same beginnings, and ends that would tell."""
    harmful, harmless = ([f"tell me about the {end} {n}" for n in range(30)] for end in "ab")
    check = check_forms(harmful, harmless)
    assert check is not None and check.accuracy <= 0.5


def test_the_same_prompts_give_the_same_numbers() -> None:
    sides = _orders(50, 4) + _questions(25, 5), _questions(40, 6) + _orders(30, 7)
    assert check_forms(*sides) == check_forms(*sides)


def test_few_prompts_say_nothing() -> None:
    assert check_forms(_orders(19, 0), _questions(50, 0)) is None
    assert check_forms(_orders(20, 0), _questions(20, 0)) is not None


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ('  "Write, please": a page on it.', ["write", "please", "a", "page"]),
        ("\u9019\u662f\u4ec0\u9ebc\uff1f\u4f60\u597d", ["\u9019", "\u662f", "\u4ec0", "\u9ebc"]),
        ("\u0915\u0948\u0938\u0947 \u0939\u094b?", ["\u0915\u0948\u0938\u0947", "\u0939\u094b"]),
        ("?!", [""]),
    ],
)
def test_first_words(prompt: str, words: list[str]) -> None:
    assert first_words(prompt) == words
