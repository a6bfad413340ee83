"""What an answer ends with: numbers in each form that models write, labels, words."""

import pytest

from eval.suites.last_number import last_number
from eval.suites.scoring import is_correct


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # A hyphen between values is no sign; one before a value is.
        ("It takes 20-25 days.", 25),
        ("from 3\u20137 hours", 7),
        ("$40-$60 a night", 60),
        ("30 - 12", 12),
        ("a 16-year-old", 16),
        ("x = -8", -8),
        ("y = - 8", -8),
        ("it fell to \u22124.5 degrees", -4.5),
        ("a loss of $-30", -30),
        ("a loss of -$30", -30),
        ("**-9**", -9),
        ("- 6 pears", 6),
        # Digits are grouped in threes, by any of the usual separators, or not at all.
        ("12,500 people", 12500),
        ("12{,}500", 12500),
        (r"12\,500", 12500),
        (r"$1,\!250{,}000$", 1250000),
        ("7\u202f250\u00a0000", 7250000),
        ("12 500", 12500),
        ("4,5,6", 6),
        ("7,42", 42),
        ("1,000,2", 2),
        ("12, 500", 500),
        # Fractions, decimals and powers of ten count by their value.
        ("about .75", 0.75),
        ("3/8 of it", 0.375),
        ("2 3/4 cups", 2.75),
        (r"-\frac{3}{8}", -0.375),
        ("on 2031/04/09", 9),
        ("2.5e3", 2500),
        (r"4 \times 10^{-2}", 0.04),
        # Units, currency and the end of a sentence say nothing of the value.
        ("65 %", 65),
        ("14 cm^2", 14),
        ("It is 31.", 31),
        (r"So \boxed{17} after 3 steps.", 17),
        (r"\boxed{\frac{9}{4}}", 2.25),
        ("no number", None),
        # Dashes as LaTeX writes them, fractions of every kind, points and commas changed over.
        ("pages 7--12", 12),
        ("\u00bc", 0.25),
        ("-3\u2158 m", -3.8),
        ("1,200\u00be", 1200.75),
        ("3\u20445", 0.6),
        (r"\frac35", 0.6),
        (r"4\tfrac 1 8", 4.125),
        (r"\nicefrac{1,200}{-5}", -240),
        ("\u20ac 23.456,7 in all", 23456.7),
        ("1 250,75", 1250.75),
        ("\uff14\uff0c\uff15\uff10\uff10", 4500),
        # More than a float holds is equal to nothing, itself included.
        ("9e999", None),
        ("3" * 400, None),
    ],
)
def test_last_number(text: str, value: float | None) -> None:
    assert last_number(text) == value


def test_a_long_run_of_digits_ends_soon() -> None:
    """Degenerate answers are scored, too."""
    for text in ("7" * 20000, "7," * 20000, "1 000 " * 10000, "-" * 50000, "\\boxed{" * 5000):
        last_number(text)


@pytest.mark.parametrize(
    ("completion", "answer", "right"),
    [
        ("Is it True or False? The expression is False.", "True", False),
        ("Is it True or False? The expression is False.", "False", True),
        ("**true**", "True", True),
        ("So the answer is (true).", "True", True),
        (r"\boxed{Yes}", "Yes", True),
        ("The argument is invalid.", "valid", False),
        ("Yes, because it blips.", "Yes", False),
        ("It is -8.", "8", False),
        ("It is -8.", "-8", True),
        ("2.8", "8", False),
        ("sorted: lid moss vask .", "lid moss vask", True),
        # Labels, with or without parentheses, and before the option's own text.
        ("(A) or (B)? The answer is (B).", "(B)", True),
        ("(A) or (B)? The answer is (B).", "(A)", False),
        ("The answer is B.", "(B)", True),
        ("b", "(B)", True),
        ("(b)", "(B)", True),
        ("B) the red vask", "(B)", True),
        ("(B) the red vask", "(B)", True),
        ("The vask is red, which makes it a", "(A)", False),
        ("none of them", "(A)", False),
        ("", "(A)", False),
        # Brackets to be closed: those that the answer ends with, and no more.
        ("The rest is: ] )", "] )", True),
        ("])", "] )", True),
        ("( [ ] )", "] )", False),
    ],
)
def test_final_words_decide(completion: str, answer: str, right: bool) -> None:
    """A completion that names several answers has the last of them."""
    assert is_correct(completion, answer, "final_words") is right


def test_final_numbers_are_compared_by_value() -> None:
    assert is_correct("That makes $1{,}200.00.", "#### 1200", "final_number")
    assert not is_correct("It is 3/2.", "1/2", "final_number")
