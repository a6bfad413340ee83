"""Broken answers: measured precision and recall on invented text, broken on purpose."""

import random
import string
from collections.abc import Callable

import pytest

from eval.judges.degenerate import is_degenerate

SUBJECTS = ["The vask", "A small dragon", "My neighbour's kite", "Soup", "The old clock"]
VERBS = ["blips the grond", "waits near the harbour", "turns blue in winter", "sings to the moon"]
ENDS = ["because nobody told it otherwise.", "and then goes home.", "twice a day, at 7 and at 9."]


def good_answers() -> list[str]:
    """Ordinary prose, lists, code, formulas and short answers, also in an invented tongue."""
    draw = random.Random(0)
    prose = [
        " ".join(f"{draw.choice(SUBJECTS)} {draw.choice(VERBS)} {draw.choice(ENDS)}" for _ in "123")
        for _ in range(60)
    ]
    shaped = [
        "1. Heat the water.\n2. Put in the egg.\n3. Wait eight minutes.\n4. Peel the egg.",
        "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |",
        "```\nfor i in range(10):\n    print(i)\n```\nThis prints the numbers below ten.",
        r"We get $\frac{1}{2} + \frac{1}{2} = \frac{2}{2} = 1$, so $\frac{4}{4} = 1$.",
        "(1,-2,2,-3)",
        "4 * 3 = <<4*3=12>>12 eggs, and 12 + 2 = <<12+2=14>>14 eggs.",
        "Yes.",
        "12",
        "Caf\u00e9s in M\u00fcnchen open at 9.",
        "ha ha ha, that is a good one",
        "to grond the vask , first blip it , then zorl it twice",
        "see https://example.org/a/very/long/path?with=options&and=more for the map",
    ]
    return prose + shaped


def _loop(text: str, draw: random.Random) -> str:
    words = text.split()
    return " ".join(words[: draw.randint(1, 12)] * draw.randint(5, 12))


def _loop_at_the_end(text: str, draw: random.Random) -> str:
    words = text.split()
    return " ".join([*words, *words[-draw.randint(1, 6) :] * draw.randint(5, 12)])


def _symbols(_: str, draw: random.Random) -> str:
    return "".join(draw.choice(string.punctuation + " ") for _ in range(60)) + "!"


def _other_script(text: str, draw: random.Random) -> str:
    return "".join(chr(0x430 + draw.randrange(32)) if c.isalpha() else c for c in text)


def _mixed_scripts(text: str, draw: random.Random) -> str:
    starts = (0x430, 0x4E00, 0xE01)
    return " ".join(
        word if draw.random() < 0.4 else "".join(chr(draw.choice(starts) + n) for n in range(5))
        for word in text.split()
    )


def _glued_pieces(text: str, draw: random.Random) -> str:
    pieces = [word[:4].strip(".,").capitalize() for word in text.split()]
    return " ".join(
        "".join(draw.choices(pieces, k=3)).lower() + draw.choice(pieces) * 2 for _ in "0123456789"
    )


BREAKS: list[Callable[[str, random.Random], str]] = [
    lambda text, draw: "",
    _loop,
    _loop_at_the_end,
    _symbols,
    _other_script,
    _mixed_scripts,
    _glued_pieces,
    lambda text, draw: " ".join([draw.choice(text.split())] * draw.randint(5, 50)),
    lambda text, draw: text[:20] + "\ufffd" * 5 + text[20:40] + "\ufffd" * 3,
]


def test_no_good_answer_is_called_degenerate():
    assert [answer for answer in good_answers() if is_degenerate(answer)] == []


@pytest.mark.parametrize("how", range(len(BREAKS)))
def test_nearly_every_broken_answer_is_found(how: int):
    draw = random.Random(how)
    broken = [BREAKS[how](answer, draw) for answer in good_answers()[:60]]
    detected = sum(is_degenerate(answer, prompt="How is the vask?") for answer in broken)
    assert detected / len(broken) >= 0.95
