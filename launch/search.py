"""Search over merge settings on the validation part: harm and refusals down, utility kept.

A trial merges in memory, lends the merged weights to a model that is loaded once, and asks the
validation prompts. Trials go to disk; an interrupted search continues there. One process does them
in order (launch/trials.py), or several share them (launch/search_workers.py).
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import optuna
from rich.console import Console
from rich.progress import Progress
from torch.utils.tensorboard import SummaryWriter

from eval.table import settings_line
from launch.choice import Outcome, Tried, choose, pareto_front, violation, within_margins
from launch.margin_search import MarginSearch, PoorMargins, search_by_margins
from launch.recipe import Recipe, SearchMethod, SearchSettings
from launch.search_result import write_result
from launch.search_space import DIRECTIONS, new_sampler, suggest
from launch.search_workers import search_together
from launch.trial_model import TrialModel
from launch.trials import TrialJournal
from merge.files import atomic_write_json, make_directory
from merge.recipe import MergeSettings

logger = logging.getLogger(__name__)

RULE = (
    "among the settings that lose no more utility and gain no more degenerate answers than the "
    "margins allow, the one whose worse ratio to the backbone (harm or refusals) is least"
)
_LOG_SECONDS = 10.0
"""Between two lines where no progress bar can be seen."""


def search(recipe: Recipe, backbone: Path, folder: Path) -> dict[SearchMethod, MergeSettings]:
    """Find merge settings for every method of the recipe, and write search.json.

    Returns:
        The chosen settings by method.
    """
    settings = recipe.search
    assert settings is not None
    make_directory(folder)
    with (
        Progress(console=Console(stderr=True), transient=True) as progress,
        SummaryWriter(str(recipe.output / "tensorboard" / "search")) as writer,
    ):
        reporter = _Reporter(settings, progress, writer)
        found = _by_margins(recipe, backbone, folder, reporter)
        if isinstance(found, PoorMargins):
            poor = found
            found = _by_answers(recipe, backbone, folder, reporter)
            found.record.update(poor.record)
    chosen: dict[SearchMethod, MergeSettings] = {
        method: choose(found.before, tried, settings) for method, tried in found.answered.items()
    }
    for method, merge in chosen.items():
        logger.info("search %s: chose %s", method, settings_line(merge.model_dump()))
    record = _record(found, chosen, settings)
    write_result(record, folder)
    atomic_write_json(folder / "search.json", record)
    return chosen


def _by_margins(
    recipe: Recipe, backbone: Path, folder: Path, reporter: "_Reporter"
) -> MarginSearch | PoorMargins:
    assert recipe.search is not None
    if recipe.search.by != "margins":
        return PoorMargins({})

    def walk(model: TrialSource, method: SearchMethod, journal: TrialJournal) -> list[Tried]:
        report = partial(reporter.trial, method)
        return search_method(model, method, recipe, journal, report)

    return search_by_margins(recipe, backbone, folder, walk, reporter.step)


def _by_answers(
    recipe: Recipe, backbone: Path, folder: Path, reporter: "_Reporter"
) -> MarginSearch:
    settings = recipe.search
    assert settings is not None
    if settings.workers == 1:
        return MarginSearch(*_search_alone(recipe, backbone, folder, reporter))
    return MarginSearch(*search_together(recipe, settings, backbone, folder, reporter.trial))


def _search_alone(
    recipe: Recipe, backbone: Path, folder: Path, reporter: "_Reporter"
) -> tuple[Outcome, dict[SearchMethod, list[Tried]]]:
    assert recipe.search is not None
    model = TrialModel.load(recipe, backbone)
    tried: dict[SearchMethod, list[Tried]] = {}
    for method in recipe.search.methods:
        journal = TrialJournal(folder / f"{method}.jsonl")
        report = partial(reporter.trial, method)
        tried[method] = search_method(model, method, recipe, journal, report)
    return model.before, tried


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
    journal: TrialJournal,
    on_trial: Callable[[int, Outcome], None] = lambda number, outcome: None,
) -> list[Tried]:
    """All trials of one method, in their order; those in the journal are not asked again.

    Args:
        on_trial: called with the number and the outcome of each trial that is done.
    """
    settings = recipe.search
    assert settings is not None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = new_sampler(settings, recipe.seed, journal.planned(settings.trials))
    study = optuna.create_study(sampler=sampler, directions=DIRECTIONS, study_name=method)
    tried: list[Tried] = []
    for number in range(settings.trials):
        trial = study.ask()
        suggested = suggest(trial, method, settings, recipe.merge, model.blocks)
        outcome = journal.outcome(number, suggested)
        if outcome is None:
            started = time.monotonic()
            kept = within_margins(tried, model.before, settings)
            outcome = model.outcome(suggested, [other for _, other in kept])
            journal.add(number, suggested, outcome, time.monotonic() - started)
        # Or the search would follow merges that answer nothing: no harm, no refusals.
        trial.set_constraint("margins", violation(model.before, outcome, settings))
        study.tell(trial, [outcome.harmful_rate, outcome.refusal_rate])
        tried.append((suggested, outcome))
        on_trial(number, outcome)
    return tried


class _Reporter:
    """Shows how far the search is."""

    def __init__(self, settings: SearchSettings, progress: Progress, writer: SummaryWriter) -> None:
        self._progress = progress
        self._writer = writer
        self._tasks = {
            method: progress.add_task(f"search {method}", total=settings.trials)
            for method in settings.methods
        }
        self._done = dict.fromkeys(settings.methods, 0)
        self._trials = settings.trials
        self._logged = time.monotonic()
        self._steps: Counter[str] = Counter()

    def trial(self, method: SearchMethod, number: int, outcome: Outcome) -> None:
        for axis, value in outcome.rates().items():
            self._writer.add_scalar(f"search_{method}/{axis}(fraction)", value, number)
        self._progress.advance(self._tasks[method])
        self._done[method] += 1
        terminal = self._progress.console.is_terminal
        if not terminal and time.monotonic() - self._logged > _LOG_SECONDS:
            self._logged = time.monotonic()
            logger.info("search %s: %d of %d trials", method, self._done[method], self._trials)

    def step(self, what: str) -> None:
        """One backward pass, measured merge or answered merge more."""
        self._steps[what] += 1
        if time.monotonic() - self._logged > _LOG_SECONDS:
            self._logged = time.monotonic()
            logger.info("search: %s, step %d", what, self._steps[what])


def _record(
    found: MarginSearch,
    chosen: Mapping[SearchMethod, MergeSettings],
    settings: SearchSettings,
) -> dict[str, Any]:
    """The content of search.json; front and choice are those of the first method."""
    first = settings.methods[0]
    front = pareto_front(found.answered[first], found.before, settings)
    return {
        "split": "validation",
        "rule": RULE,
        "backbone": found.before.as_dict(),
        "chosen": {method: merge.model_dump(mode="json") for method, merge in chosen.items()},
        **found.record,
        "trials": [
            {
                "settings": pair[0].model_dump(mode="json"),
                **pair[1].as_dict(),
                "pareto": method == first and pair in front,
                "chosen": pair[0] == chosen[first],
            }
            for method, pairs in found.answered.items()
            for pair in pairs
        ],
        "estimated": [
            {"settings": merge.model_dump(mode="json"), **outcome.as_dict()}
            for pairs in found.estimated.values()
            for merge, outcome in pairs
        ],
    }
