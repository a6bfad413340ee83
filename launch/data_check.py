"""D_h against the prompts that judge the result, before any training."""

import logging
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from eval.prompts import PromptSet
from merge.errors import UserError
from train.data import Example

logger = logging.getLogger(__name__)

_OPENING_WORDS = 20
"""An answer that is longer is more than an opening phrase."""
_OPENING_SHARE = 0.5
_SHOWN = 3


def check_harmful_data(
    examples: Sequence[Example], prompt_sets: Iterable[PromptSet], section: str = "data"
) -> None:
    """Say what D_h holds, warn of what will not train well, and see that no prompt is in it.

    Args:
        section: of the recipe, where the pairs come from; ``false_refusals`` are checked alike.

    Raises:
        UserError: a question is also one of the prompts, on which nothing may be trained.
    """
    questions = {_normal(example.question) for example in examples}
    shared = [
        f"'{prompt_set.row.name}' {prompt.id}"
        for prompt_set in prompt_sets
        for prompt in prompt_set.prompts
        if _normal(prompt.text) in questions
    ]
    if shared:
        raise UserError(
            f"{section}: {len(shared)} questions are also validation or test prompts, such as "
            f"{', '.join(shared[:_SHOWN])}; take them out of one of the two"
        )
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
            "%s: %d of %d answers are only an opening phrase; ascent will unlearn the phrase "
            "rather than the answer: give whole answers, or let the backbone write them with "
            "python -m launch harvest",
            section,
            openings,
            len(examples),
        )


def check_apart(
    asked: Iterable[PromptSet], examples: Sequence[Example], prompt_sets: Iterable[PromptSet]
) -> None:
    """See that no question that answers are harvested to is in D_h, or a prompt of a suite.

    Raises:
        UserError: one is; naming rows of both.
    """
    places = {_normal(each.question): f"D_h {row}" for row, each in enumerate(examples, start=1)}
    for prompt_set in prompt_sets:
        for prompt in prompt_set.prompts:
            places[_normal(prompt.text)] = f"'{prompt_set.row.name}' {prompt.id}"
    shared = [
        f"'{question_set.row.name}' {prompt.id} = {places[_normal(prompt.text)]}"
        for question_set in asked
        for prompt in question_set.prompts
        if _normal(prompt.text) in places
    ]
    if shared:
        raise UserError(
            f"harvest.harmless: {len(shared)} rows are also in D_h or validation or test prompts: "
            f"{', '.join(shared[:_SHOWN])}; choose other rows"
        )


def _is_opening(example: Example) -> bool:
    """Whether an answer announces something and stops, as in "Sure, here is a list:"."""
    answer = example.answer.strip()
    return len(answer.split()) <= _OPENING_WORDS and answer[-1] not in ".!?"


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())
