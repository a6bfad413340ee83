"""A question with its answer: what a training learns or unlearns."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """One question with the answer that is learned or unlearned."""

    question: str
    answer: str
    categories: tuple[str, ...] = ()
