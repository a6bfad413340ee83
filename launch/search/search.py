"""Search over merge settings on the validation part: harm and refusals down, utility kept.

A trial merges in memory, lends the merged weights to a model that is loaded once, and asks the
validation prompts. Trials go to disk; an interrupted search continues there. One process does them
in order (launch/search/trial_journal.py), or several share them (launch/search/workers.py); what
several have begun one may end.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import optuna
from torch.utils.tensorboard import SummaryWriter

from eval.report.table import settings_line
from launch.recipe import Recipe
from launch.search.choice import Outcome, Tried, choose, pareto_front, violation, within_margins
from launch.search.margin_search import PoorMargins, search_by_margins
from launch.search.opening_search import MarginSearch
from launch.search.result import write_result
from launch.search.settings import SearchMethod, SearchSettings
from launch.search.space import DIRECTIONS, new_sampler, suggest
from launch.search.storage import FILE
from launch.search.trial_journal import TrialJournal
from launch.search.trial_model import TrialModel
from launch.search.warnings import warn_of_outcome
from launch.search.workers import search_together
from merge.common.files import atomic_write_json, make_directory
from merge.common.metrics import record
from merge.common.progress import Progress
from merge.settings import MergeSettings

logger = logging.getLogger(__name__)

RULE = (
    "among the settings that lose no more utility and gain no more degenerate answers than the "
    "margins allow, the one whose worse ratio to the backbone (harm or refusals) is least"
)
OnTrial = Callable[[SearchMethod, int, Outcome], None]
"""Called with method, number and outcome of each trial that is done."""


def search(recipe: Recipe, backbone: Path, folder: Path) -> dict[SearchMethod, MergeSettings]:
    """Find merge settings for every method of the recipe, and write search.json.

    Returns:
        The chosen settings by method.
    """
    settings = recipe.search
    assert settings is not None
    make_directory(folder)
    with SummaryWriter(str(recipe.output / "tensorboard" / "search")) as writer:
        on_trial = partial(_note, writer)
        found = _by_margins(recipe, backbone, folder, on_trial)
        if isinstance(found, PoorMargins):
            poor = found
            found = _by_answers(recipe, backbone, folder, on_trial)
            found.record.update(poor.record)
    chosen: dict[SearchMethod, MergeSettings] = {
        method: choose(found.before, tried, settings) for method, tried in found.answered.items()
    }
    for method, merge in chosen.items():
        logger.info("search %s: chose %s", method, settings_line(merge.model_dump()))
    warn_of_outcome(found.before, found.answered, chosen, settings)
    content = _record(found, chosen, settings)
    write_result(content, folder)
    atomic_write_json(folder / "search.json", content)
    return chosen


def _by_margins(
    recipe: Recipe, backbone: Path, folder: Path, on_trial: OnTrial
) -> MarginSearch | PoorMargins:
    assert recipe.search is not None
    if recipe.search.by != "margins":
        return PoorMargins({})

    def walk(model: TrialSource, method: SearchMethod, journal: TrialJournal) -> list[Tried]:
        report = partial(on_trial, method)
        return search_method(model, method, recipe, journal, report)

    return search_by_margins(recipe, backbone, folder, walk)


def _by_answers(recipe: Recipe, backbone: Path, folder: Path, on_trial: OnTrial) -> MarginSearch:
    settings = recipe.search
    assert settings is not None
    if settings.workers == 1 and not (folder / FILE).is_file():
        return MarginSearch(*_search_alone(recipe, backbone, folder, on_trial))
    return MarginSearch(*search_together(recipe, settings, backbone, folder, on_trial))


def _search_alone(
    recipe: Recipe, backbone: Path, folder: Path, on_trial: OnTrial
) -> tuple[Outcome, dict[SearchMethod, list[Tried]]]:
    assert recipe.search is not None
    model = TrialModel.load(recipe, backbone)
    tried: dict[SearchMethod, list[Tried]] = {}
    for method in recipe.search.methods:
        journal = TrialJournal(folder / f"{method}.jsonl")
        report = partial(on_trial, method)
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
    with Progress(f"search {method}", settings.trials, "trials") as progress:
        for number in range(settings.trials):
            trial = study.ask()
            suggested = suggest(trial, method, settings, recipe.merge, model.blocks)
            outcome = journal.outcome(number, suggested)
            if outcome is None:
                started = time.monotonic()
                kept = within_margins(tried, model.before, settings)
                outcome = model.outcome(suggested, [other for _, other in kept])
                journal.add(number, suggested, outcome, time.monotonic() - started)
                progress.advance()
            else:
                progress.skip()
            # Or the search would follow merges that answer nothing: no harm, no refusals.
            trial.set_constraint("margins", violation(model.before, outcome, settings))
            study.tell(trial, [outcome.harmful_rate, outcome.refusal_rate])
            tried.append((suggested, outcome))
            on_trial(number, outcome)
    return tried


def _note(writer: SummaryWriter, method: SearchMethod, number: int, outcome: Outcome) -> None:
    """Send a trial's rates to TensorBoard and to the run's JSON lines."""
    rates = {f"search_{method}/{axis}(fraction)": value for axis, value in outcome.rates().items()}
    for tag, value in rates.items():
        writer.add_scalar(tag, value, number)
    record({"trial": number, **rates})


def _record(
    found: MarginSearch,
    chosen: Mapping[SearchMethod, MergeSettings],
    settings: SearchSettings,
) -> dict[str, Any]:
    """The content of search.json; every method has a front, the choice is that of the first."""
    first = settings.methods[0]
    fronts = {
        method: pareto_front(pairs, found.before, settings)
        for method, pairs in found.answered.items()
    }
    return {
        "split": "validation",
        "rule": RULE,
        "backbone": found.before.as_dict(),
        "chosen": {method: merge.model_dump(mode="json") for method, merge in chosen.items()},
        **found.record,
        "trials": [
            {
                "method": method,
                "settings": pair[0].model_dump(mode="json"),
                **pair[1].as_dict(),
                "pareto": pair in fronts[method],
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
