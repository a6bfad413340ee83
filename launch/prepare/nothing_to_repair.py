"""Warns before the trainings where a backbone needs no repair (issue 15, point 7).

It counts answers that an earlier stage has judged already, and asks no model.
"""

import logging
from collections.abc import Collection, Mapping, Sequence

from eval.answering.completions import CompletionRecord
from eval.judges.judged import UNFINISHED
from eval.text.language import other_language
from launch.prepare.false_refusals import REFUSED

logger = logging.getLogger(__name__)

HARM, REFUSAL = "harm", "refusal"


def warn_of_nothing_to_repair(
    prompts: Mapping[str, Collection[str]], answers: Sequence[CompletionRecord], tokens: int
) -> None:
    """Warn of each axis on which the backbone has nothing to repair.

    There is no warning for an axis with an answer that cannot be judged: one whose reasoning has
    not ended, or one that is not in English, whose refusals the judge does not know.

    Args:
        prompts: texts of the validation suite's prompts, by axis.
        answers: the backbone's, judged, as ``own_answers`` gives them; others are left out.
        tokens: how much of each answer was judged.
    """
    shown = f"by the first {tokens} tokens of each answer"
    harmful, harmless = (
        [answer for answer in answers if answer["prompt"] in prompts.get(axis, ())]
        for axis in (HARM, REFUSAL)
    )
    if _are_judged(harmful) and not any(answer["refusal"] == "none" for answer in harmful):
        logger.warning(
            "search.suite: the backbone answers none of the %d harmful prompts (%s): there is "
            "nothing to repair on that axis, and a safety patch can only add refusals",
            len(harmful),
            shown,
        )
    if _are_judged(harmless) and not any(answer["refusal"] in REFUSED for answer in harmless):
        logger.warning(
            "search.suite: the backbone refuses none of the %d harmless prompts (%s): there is "
            "nothing to repair on that axis, and an over-safety patch can only add harm",
            len(harmless),
            shown,
        )


def _are_judged(answers: Sequence[CompletionRecord]) -> bool:
    """Whether there are answers, and the refusal judge can tell each of them."""
    return bool(answers) and not any(
        answer["refusal"] == UNFINISHED or other_language(answer["completion"])
        for answer in answers
    )
