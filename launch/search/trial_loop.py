"""The trials of a search, one after the other, whoever does them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from launch.recipe import Recipe
from launch.search.choice import Outcome, Trial, within_margins
from launch.search.settings import SearchMethod
from launch.search.space import suggest
from launch.search.storage import Trials
from merge.common.progress import Progress
from merge.settings import MergeSettings

OnOutcome = Callable[[int, Outcome], None]
"""Called with the number and the outcome of each trial that is done."""


class TrialSource(Protocol):
    """What a search tries its merges on."""

    @property
    def before(self) -> Outcome:
        """What every merge is compared with: the backbone."""
        ...

    @property
    def blocks(self) -> list[str]:
        """Names of the decoder blocks that the merges change, in order."""
        ...

    def outcome(self, settings: MergeSettings, kept: Sequence[Outcome]) -> Outcome:
        """What comes of a merge."""
        ...


def search_method(
    model: TrialSource,
    method: SearchMethod,
    recipe: Recipe,
    trials: Trials,
    on_trial: OnOutcome = lambda number, outcome: None,
) -> list[Trial]:
    """All trials of one method by this process alone, in their order; those done stay.

    Args:
        on_trial: called with the number and the outcome of each trial, also of those done before.
    """
    assert recipe.search is not None
    trials.ask_again()
    done = trials.done()
    with Progress(f"search {method}", recipe.search.trials, "trials", len(done)) as progress:
        for number, (_, outcome) in done.items():
            on_trial(number, outcome)

        def report(number: int, outcome: Outcome) -> None:
            on_trial(number, outcome)
            progress.advance()

        do_trials(model, method, recipe, trials, report)
    return list(trials.done().values())


def do_trials(
    model: TrialSource, method: SearchMethod, recipe: Recipe, trials: Trials, report: OnOutcome
) -> None:
    """Claim and do trials until all are begun; ``report`` is called after each."""
    search = recipe.search
    assert search is not None
    draw = partial(suggest, method=method, settings=search, base=recipe.merge, blocks=model.blocks)
    while (claimed := trials.claim(draw)) is not None:
        trial, settings = claimed
        kept = within_margins(list(trials.done().values()), model.before, search)
        outcome = model.outcome(settings, [other for _, other in kept])
        trials.tell(trial, settings, outcome, model.before)
        report(trial.number, outcome)
