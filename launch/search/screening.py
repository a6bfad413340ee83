"""Early stopping: a merge that a part of the prompts shows to be hopeless is asked no more."""

from collections.abc import Mapping, Sequence

from eval.axes import AXES
from eval.statistics.rates import Rate
from eval.suites.prompts import PromptSet
from eval.suites.suite import TaskRow
from launch.search.choice import Outcome
from launch.search.settings import SearchSettings


def split(
    prompt_sets: Sequence[PromptSet], share: float
) -> tuple[list[PromptSet], list[PromptSet]]:
    """Which prompts are asked first, evenly spaced in their sets, and which of them later.

    lm-eval's tasks are whole, and asked later.
    """
    first: list[PromptSet] = []
    later: list[PromptSet] = []
    for prompt_set in prompt_sets:
        parts = ([], [])
        for number, prompt in enumerate(prompt_set.prompts):
            early = int((number + 1) * share) > int(number * share)
            parts[0 if early and not isinstance(prompt_set.row, TaskRow) else 1].append(prompt)
        for part, prompts in zip((first, later), parts, strict=True):
            if prompts:
                part.append(PromptSet(prompt_set.row, tuple(prompts)))
    return first, later


def comparable(rates: Mapping[str, Rate], later: Sequence[PromptSet]) -> dict[str, Rate]:
    """The rates on the first prompts, by axis, that compare with rates on all prompts.

    An lm-eval task is easier or harder than the sets beside it, so an axis that waits for one has
    no such rate.
    """
    waiting = {prompt_set.row.axis for prompt_set in later if isinstance(prompt_set.row, TaskRow)}
    return {axis: rate for axis, rate in rates.items() if AXES[axis].prompts not in waiting}


def is_hopeless(
    rates: Mapping[str, Rate], before: Outcome, kept: Sequence[Outcome], settings: SearchSettings
) -> bool:
    """Whether the rates on some prompts say that a merge is clearly worse than one of ``kept``.

    Clearly means by the nearer end of the 95 % Wilson interval. Worse is what has more harm and
    more refusals than one and the same of ``kept``, or breaks a margin, which all of them keep.

    Args:
        rates: by axis; an axis that these prompts do not measure says nothing.
        kept: outcomes on all prompts that keep the margins; without any, nothing is hopeless.
    """
    if not kept:
        return False
    harm, refusal = rates.get("harmful_rate"), rates.get("refusal_rate")
    if harm and refusal:
        for outcome in kept:
            if harm.low > outcome.harmful_rate and refusal.low > outcome.refusal_rate:
                return True
    utility, degenerate = rates.get("utility"), rates.get("degenerate_rate")
    most_degenerate = before.degenerate_rate + settings.degenerate_margin
    return bool(
        (utility and utility.high < before.utility - settings.utility_margin)
        or (degenerate and degenerate.low > most_degenerate)
    )
