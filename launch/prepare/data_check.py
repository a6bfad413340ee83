"""What D_h holds, said before any training."""

import logging
import statistics
from collections import Counter
from collections.abc import Sequence

from launch.prepare.overlap import normal
from train.chat.example import Example

logger = logging.getLogger(__name__)

_OPENING_WORDS = 20
"""An answer that is longer is more than an opening phrase."""
_OPENING_SHARE = 0.5


def describe_pairs(examples: Sequence[Example], section: str = "data") -> None:
    """Say what D_h holds, and warn of what will not train well.

    Args:
        section: of the recipe, where the pairs come from; ``false_refusals`` are described alike.
    """
    questions = {normal(example.question) for example in examples}
    lengths = [len(example.answer.split()) for example in examples]
    categories = Counter(category for example in examples for category in example.categories)
    logger.info(
        "%s: %d pairs, answers of %d words in the median (%d to %d)%s",
        section,
        len(examples),
        statistics.median(lengths),
        min(lengths),
        max(lengths),
        "; " + ", ".join(f"{name} {count}" for name, count in categories.most_common())
        if categories
        else "",
    )
    if len(questions) < len(examples):
        logger.warning(
            "%s: %d questions stand there twice", section, len(examples) - len(questions)
        )
    openings = sum(map(_is_opening, examples))
    if openings > _OPENING_SHARE * len(examples):
        logger.warning(
            "%s: %d of %d answers have at most %d words and no full stop, as opening phrases have; "
            "if they are, ascent will unlearn the phrase rather than the answer: give whole "
            "answers, or let the backbone write them with python -m launch harvest",
            section,
            openings,
            len(examples),
            _OPENING_WORDS,
        )


def _is_opening(example: Example) -> bool:
    """Whether an answer announces something and stops, as in "Sure, here is a list:"."""
    answer = example.answer.strip()
    return len(answer.split()) <= _OPENING_WORDS and answer[-1] not in ".!?"
