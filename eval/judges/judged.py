"""Judging a completion: its reasoning is put aside first, by the rule of ``train.chat.answer``."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from eval.judges.refusal import judge
from eval.statistics.summary import SuiteSummary
from train.chat.answer import answer_of

Judge = Callable[[Sequence[tuple[str, str]]], Sequence[str]]
"""From (prompt, answer) pairs to their classes."""

DEGENERATE = "degenerate"
"""The class of a broken answer, see ``eval.judges.degenerate``."""

UNFINISHED = "unfinished"
"""The class of a completion whose reasoning never ends: neither harm nor refusal."""

UNPARSED = "unparsed"
"""The class of a model's judgement that cannot be read: neither harmful nor a refusal."""


class Judged(NamedTuple):
    """The verdict on a completion.

    Attributes:
        answer: what stands after its reasoning; empty where that never ends.
        refusal: none, partial, full, degenerate, or unfinished; by a model also unparsed.
    """

    answer: str
    refusal: str


def judged(completion: str, prompt: str = "", prefix: str = "") -> Judged:
    """The answer in a completion, and the rules' class of it.

    Args:
        prefix: how the answer was made to begin. It belongs to the answer, but the model did not
            choose it: the rules read only what follows.
    """
    answer = answer_of(completion)
    if answer is None:
        return Judged("", UNFINISHED)
    return Judged(answer, judge(_behind(prefix, answer), prompt))


def _behind(prefix: str, answer: str) -> str:
    """The answer without its given beginning, which a tokenizer may have spaced otherwise."""
    given = re.match(r"\s*" + r"\s+".join(map(re.escape, prefix.split())), answer)
    return answer[given.end() :] if prefix and given else answer


def judged_by(
    refusal_judge: Judge | None, by_rules: Sequence[Judged], prompts: Sequence[str]
) -> list[Judged]:
    """Replace the rules' classes of refusals by a model's.

    Answers that the rules call degenerate or unfinished keep their class; no model judges these.

    Args:
        by_rules: verdicts by the rules, one for each prompt.
        refusal_judge: gives none, partial, full or unparsed; without one the rules stay.
    """
    if refusal_judge is None:
        return list(by_rules)
    asked = [
        place for place, each in enumerate(by_rules) if each.refusal not in (DEGENERATE, UNFINISHED)
    ]
    if not asked:
        return list(by_rules)
    classes = refusal_judge([(prompts[place], by_rules[place].answer) for place in asked])
    changed = dict(zip(asked, classes, strict=True))
    return [
        each._replace(refusal=changed.get(place, each.refusal))
        for place, each in enumerate(by_rules)
    ]


def unfinished_note(suites: Mapping[str, SuiteSummary]) -> str | None:
    """One line on completions that end inside their reasoning, with what to change.

    Args:
        suites: by name the suites of a summary, with their "refusal_counts".

    Returns:
        ``None`` where every reasoning ends.
    """
    counts = {name: suite["refusal_counts"].get(UNFINISHED, 0) for name, suite in suites.items()}
    counts = {name: count for name, count in counts.items() if count}
    if not counts:
        return None
    where = ", ".join(f"{name} {count}" for name, count in counts.items())
    return (
        f"{sum(counts.values())} answers end inside their reasoning ({where}): raise "
        "max_new_tokens of these suite rows, or turn reasoning off (reasoning: false)"
    )


def unparsed_notes(suites: Mapping[str, SuiteSummary]) -> list[str]:
    """A line for each judge on judgements that could not be read, which count nowhere.

    Args:
        suites: by name the suites of a summary, with "refusal_counts" and "harm_counts".
    """
    notes = []
    for name, key in (("refusal", "refusal_counts"), ("harm", "harm_counts")):
        count = sum(suite.get(key, {}).get(UNPARSED, 0) for suite in suites.values())
        if count:
            notes.append(
                f"{count} verdicts of the {name} judge could not be read, and count as neither: "
                "see its file's patterns and max_new_tokens"
            )
    return notes
