"""Search over merge settings on the validation part: harm and refusals down, utility kept.

A trial merges in memory, lends the merged weights to a model that is loaded once, and asks the
validation prompts. Trials go to disk (launch/search/storage.py); an interrupted search continues
there. One process does them in order, or several share them (launch/search/workers.py); what
several have begun one may end.
"""

import gc
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from eval.report.table import settings_line
from launch.in_memory.vllm_model import answers_by_vllm
from launch.recipe import Recipe
from launch.search.choice import Outcome, Trial, choose
from launch.search.margin_search import PoorMargins, search_by_margins
from launch.search.opening_search import SearchResult
from launch.search.record import search_record
from launch.search.result import write_result
from launch.search.settings import SearchMethod
from launch.search.storage import Trials
from launch.search.trial_loop import TrialSource, search_method
from launch.search.trial_model import TrialModel
from launch.search.warnings import warn_of_outcome
from launch.search.workers import search_together
from merge.common.files import atomic_write_json, make_directory
from merge.common.metrics import record
from merge.settings import MergeSettings

logger = logging.getLogger(__name__)

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
        if settings.by == "margins":
            result = _by_margins(recipe, backbone, folder, on_trial)
        else:
            result = _by_answers(recipe, backbone, folder, on_trial)
    chosen: dict[SearchMethod, MergeSettings] = {
        method: choose(result.before, tried, settings) for method, tried in result.answered.items()
    }
    for method, merge in chosen.items():
        logger.info("search %s: chose %s", method, settings_line(merge.model_dump()))
    warn_of_outcome(result.before, result.answered, chosen, settings)
    content = search_record(result, chosen, settings)
    write_result(content, folder)
    atomic_write_json(folder / "search.json", content)
    return chosen


def _by_margins(recipe: Recipe, backbone: Path, folder: Path, on_trial: OnTrial) -> SearchResult:
    """By margins, or by answers where margins tell the backbone's own refusals badly."""

    def do_trials(model: TrialSource, method: SearchMethod, trials: Trials) -> list[Trial]:
        return search_method(model, method, recipe, trials, partial(on_trial, method))

    result = search_by_margins(recipe, backbone, folder, do_trials)
    if isinstance(result, PoorMargins):
        poor = result
        result = _by_answers(recipe, backbone, folder, on_trial)
        result.record.update(poor.record)
    return result


def _by_answers(recipe: Recipe, backbone: Path, folder: Path, on_trial: OnTrial) -> SearchResult:
    settings = recipe.search
    assert settings is not None
    # One engine has all GPUs; the workers of its search are jobs of a cluster alone.
    if settings.workers == 1 or answers_by_vllm(recipe):
        return SearchResult(*_search_alone(recipe, backbone, folder, on_trial))
    return SearchResult(*search_together(recipe, settings, backbone, folder, on_trial))


def _search_alone(
    recipe: Recipe, backbone: Path, folder: Path, on_trial: OnTrial
) -> tuple[Outcome, dict[SearchMethod, list[Trial]]]:
    assert recipe.search is not None
    model = TrialModel.load(recipe, backbone)
    tried: dict[SearchMethod, list[Trial]] = {}
    for method in recipe.search.methods:
        trials = Trials(folder, method, recipe.search, recipe.seed)
        report = partial(on_trial, method)
        tried[method] = search_method(model, method, recipe, trials, report)
    before = model.before
    del model
    gc.collect()  # Ends vLLM's processes, where these answer: later stages need the GPUs.
    return before, tried


def _note(writer: SummaryWriter, method: SearchMethod, number: int, outcome: Outcome) -> None:
    """Send a trial's rates to TensorBoard and to the run's JSON lines."""
    rates = {f"search_{method}/{axis}(fraction)": value for axis, value in outcome.rates().items()}
    for tag, value in rates.items():
        writer.add_scalar(tag, value, number)
    record({"trial": number, **rates})
