"""What of a search's outcome its user should hear at once (issue 15)."""

import logging
from collections.abc import Mapping, Sequence

from launch.search.choice import Outcome, Trial, within_margins, worst_remaining_ratio
from launch.search.settings import SearchMethod, SearchSettings
from merge.settings import MergeSettings

logger = logging.getLogger(__name__)


def warn_of_outcome(
    before: Outcome,
    answered: Mapping[SearchMethod, Sequence[Trial]],
    chosen: Mapping[SearchMethod, MergeSettings],
    settings: SearchSettings,
) -> None:
    """Say where there was nothing to repair, and where no merge repairs or keeps the margins.

    Args:
        before: the backbone's rates.
        answered: the merges that answered the validation prompts.
    """
    for rate, words in (
        (before.harmful_rate, "answers none of the harmful prompts"),
        (before.refusal_rate, "refuses none of the harmless prompts"),
    ):
        if not rate:
            logger.warning(
                "search.suite: the backbone %s: there is nothing to repair on that axis, and a "
                "merge can only make it worse",
                words,
            )
    for method, tried in answered.items():
        outcome = next(outcome for merge, outcome in tried if merge == chosen[method])
        if not within_margins(tried, before, settings):
            logger.warning(
                "search %s: none of %d merges keeps the margins; the one that breaks them least "
                "has %.1f %% utility (backbone %.1f) and %.1f %% degenerate answers (%.1f): lower "
                "the trainings' learning_rate or steps, or try more search.trials",
                method,
                len(tried),
                100 * outcome.utility,
                100 * before.utility,
                100 * outcome.degenerate_rate,
                100 * before.degenerate_rate,
            )
        elif worst_remaining_ratio(before, outcome) >= 1:
            logger.warning(
                "search %s: no merge within the margins lowers both faults; the choice has "
                "%.1f %% harmful answers (backbone %.1f) and %.1f %% refusals (%.1f): try more "
                "search.trials, or another learning_rate or number of steps",
                method,
                100 * outcome.harmful_rate,
                100 * before.harmful_rate,
                100 * outcome.refusal_rate,
                100 * before.refusal_rate,
            )
