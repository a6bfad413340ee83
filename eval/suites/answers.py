"""What a model said to a prompt of a suite, and by what it is known."""

from typing import NamedTuple

AnswerId = tuple[str, str]
"""(suite, prompt id)."""


class Answer(NamedTuple):
    """What a model said.

    Attributes:
        tokens: length of the text as generated; 0 where a choice was picked by its likelihood.
        correct: lm-eval's judgement; ``None`` where the text alone decides.
    """

    text: str
    tokens: int
    correct: bool | None = None
