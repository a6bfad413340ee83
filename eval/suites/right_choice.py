"""Which choice an answer column names: by a label, by an index from 0, or by the choice's own text.

A choice's text may look like a label or an index: of ("1", "2", "3", "4") the answer 2 is "3" by
index, and "2" by text. So the answers of a set are read together. Where each of them is a label or
an index, all are read so, even those that are a choice's text as well; otherwise all are texts.
Cells that hold a number and cells that hold a text are two sets.
"""

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from merge.common.errors import UserError
from train.data.cells import as_number

LETTERS: tuple[str, ...] = tuple(string.ascii_uppercase)
"""The labels of choices that have none of their own."""


@dataclass(frozen=True)
class GivenAnswer:
    """The answer of one question, as its source writes it.

    Attributes:
        text: the cell as text.
        is_number: whether the cell holds a number, and not a text that looks like one.
        choices: texts of the choices.
        labels: their labels, in the same order; there may be more of them.
        where: source and row, named in errors.
    """

    text: str
    is_number: bool
    choices: tuple[str, ...]
    labels: Sequence[str]
    where: str


_Reader = Callable[[GivenAnswer], str | None]


def right_choices(answers: Sequence[GivenAnswer]) -> list[str]:
    """The text of each question's right choice; see the module for how the answers are read.

    Raises:
        UserError: an answer is no choice in any way, or two answers of a set are written in ways
            that exclude each other.
    """
    readers = {
        is_number: _reader([answer for answer in answers if answer.is_number is is_number])
        for is_number in {answer.is_number for answer in answers}
    }
    return [str(readers[answer.is_number](answer)) for answer in answers]


def _reader(answers: Sequence[GivenAnswer]) -> _Reader:
    """The first way to read an answer that fits all of them."""
    unnamed = [answer for answer in answers if _by_name(answer) is None]
    if not unnamed:
        return _by_name
    unmatched = next((answer for answer in answers if _by_text(answer) is None), None)
    if unmatched is None:
        return _by_text
    for answer in unnamed:
        if _by_text(answer) is None:
            raise UserError(
                f"{answer.where}: answer '{answer.text}' is no choice's text, letter, or index "
                "from 0"
            )
    raise UserError(
        f"{unnamed[0].where}: answer '{unnamed[0].text}' is a choice's text, but that of "
        f"{unmatched.where}, '{unmatched.text}', is a letter or an index; write all in one way"
    )


def _by_name(answer: GivenAnswer) -> str | None:
    """The choice whose label, or else whose index from 0, the answer is."""
    choices = answer.choices
    labels = answer.labels[: len(choices)]
    place = _place(answer.text, labels)
    if place is not None:
        return choices[place]
    index = int(answer.text) if answer.text.isdecimal() else as_number(answer.text)
    return choices[int(index)] if index is not None and index in range(len(choices)) else None


def _by_text(answer: GivenAnswer) -> str | None:
    place = _place(answer.text, answer.choices)
    return None if place is None else answer.choices[place]


def _place(given: str, names: Sequence[str]) -> int | None:
    """Where a name stands; else the only one that is the same in other letters, or another way to
    write a number: True and true, 2 and 2.0."""
    if given in names:
        return names.index(given)
    alike = [place for place, name in enumerate(names) if _is_alike(given, name)]
    return alike[0] if len(alike) == 1 else None


def _is_alike(given: str, name: str) -> bool:
    number = as_number(given)
    return given.casefold() == name.strip().casefold() or (
        number is not None and number == as_number(name)
    )
