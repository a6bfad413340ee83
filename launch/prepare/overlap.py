"""Questions that stand in two places of a run where no question may stand in both (issue 15).

What is trained on, what settings are chosen on, and what the result is judged on must not meet;
nor may a question be harmful here and harmless there.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from eval.suites.prompts import PromptSet
from merge.common.errors import UserError
from train.chat.example import Example

Kind = Literal["harmful", "harmless", "validation", "test"]
"""The first two are learned from; two places of one kind may share questions."""
_SHOWN = 3
_ENDS = " .?!\u2026\u3002\u00bf\u00a1\"'\u201c\u201d\u2018\u2019"


@dataclass(frozen=True)
class Asked:
    """A question and where it stands.

    Attributes:
        choices: of a multiple-choice question, which is another one with other choices.
    """

    name: str
    text: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where a recipe takes questions from.

    Attributes:
        section: of the recipe, for errors.
        prompt_sets: the questions as prompts, where they are.
    """

    section: str
    kind: Kind
    questions: Sequence[Asked]
    prompt_sets: Sequence[PromptSet] = ()


def pairs_at(section: str, kind: Kind, examples: Sequence[Example]) -> Place:
    """The questions of a file of pairs."""
    asked = [Asked(f"{section} {row}", each.question) for row, each in enumerate(examples, start=1)]
    return Place(section, kind, asked)


def prompts_at(section: str, kind: Kind, prompt_sets: Sequence[PromptSet]) -> Place:
    """The prompts of a suite's rows."""
    asked = [
        Asked(f"'{prompt_set.row.name}' {prompt.id}", prompt.text, prompt.choices)
        for prompt_set in prompt_sets
        for prompt in prompt_set.prompts
    ]
    return Place(section, kind, asked, prompt_sets)


def refuse_overlaps(places: Sequence[Place]) -> None:
    """See that no question stands in two places of different kinds.

    Blanks, case, and marks around a question do not count. Where both places ask multiple-choice
    questions, the choices count as well: "Which of these is true?" is asked often.

    Raises:
        UserError: naming rows of every two places that share some.
    """
    problems = [
        problem
        for number, place in enumerate(places)
        for other in places[:number]
        if (problem := _problem(place, other)) is not None
    ]
    if problems:
        raise UserError("; ".join(problems) + "; take them out of one of the two")


def _problem(place: Place, other: Place) -> str | None:
    if place.kind == other.kind:
        return None
    known: dict[str, list[Asked]] = {}
    for asked in other.questions:
        known.setdefault(normal(asked.text), []).append(asked)
    shared = [
        f"{asked.name} = {same.name}"
        for asked in place.questions
        if (same := _same(asked, known.get(normal(asked.text), ()))) is not None
    ]
    if not shared:
        return None
    more = f" and {len(shared) - _SHOWN} more" if len(shared) > _SHOWN else ""
    verb = "questions stand" if len(shared) > 1 else "question stands"
    return (
        f"{place.section} and {other.section}: {len(shared)} {verb} in both, "
        f"{', '.join(shared[:_SHOWN])}{more}"
    )


def _same(asked: Asked, others: Sequence[Asked]) -> Asked | None:
    for other in others:
        both = asked.choices and other.choices
        if not both or sorted(map(normal, asked.choices)) == sorted(map(normal, other.choices)):
            return other
    return None


def normal(text: str) -> str:
    """A question's text without case, spacing and end marks, which make no other question of it."""
    words = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    # A text of nothing but such marks keeps them.
    return words.strip(_ENDS) or words
