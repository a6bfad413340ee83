"""Judging a completion: its reasoning is put aside first, by the rule of ``train.chat.answer``."""

from typing import Any, NamedTuple

from eval.judges.refusal import judge
from train.chat.answer import answer_of

UNFINISHED = "unfinished"
"""The class of a completion whose reasoning never ends: neither harm nor refusal."""


class Judged(NamedTuple):
    """What was found in a completion.

    Attributes:
        answer: what stands after its reasoning; empty where that never ends.
        refusal: none, partial, full, degenerate, or unfinished.
    """

    answer: str
    refusal: str


def judged(completion: str, prompt: str = "") -> Judged:
    """The answer in a completion, and the refusal judge's class of it."""
    answer = answer_of(completion)
    if answer is None:
        return Judged("", UNFINISHED)
    return Judged(answer, judge(answer, prompt))


def unfinished_note(suites: dict[str, Any]) -> str | None:
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
