"""Search over merge settings on the validation part: harm and refusals down, utility kept.

A trial merges in memory, lends the merged weights to a model that is loaded once, and asks the
validation prompts. Trials go to disk (launch/trials.py); an interrupted search continues there.
"""

import logging
import time
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console
from rich.progress import Progress
from torch.utils.tensorboard import SummaryWriter

from eval.harness import DEFAULT_BATCH_TOKENS
from eval.models import load_model, load_tokenizer, resolve_dtype
from eval.prompts import load_prompts
from eval.suite import load_suite
from launch.borrowed_model import BorrowedModel
from launch.choice import Outcome, Tried, choose, pareto_front, violation
from launch.recipe import Recipe, SearchMethod, SearchSettings
from launch.search_result import settings_line, write_result
from launch.trials import TrialJournal
from merge.files import atomic_write_json, make_directory
from merge.in_memory import LoadedInputs
from merge.methods import METHODS
from merge.recipe import MergeSettings

logger = logging.getLogger(__name__)

RULE = (
    "among the settings that lose no more utility and gain no more degenerate answers than the "
    "margins allow, the one whose worse ratio to the backbone (harm or refusals) is least"
)
_RANDOM_SHARE = 0.25
"""Of the trials; the others follow what these found."""
_LOG_SECONDS = 10.0
"""Between two lines where no progress bar can be seen."""


def search(recipe: Recipe, backbone: Path, folder: Path) -> dict[str, MergeSettings]:
    """Find merge settings for every method of the recipe, and write search.json.

    Returns:
        The chosen settings by method.
    """
    settings = recipe.search
    assert settings is not None
    make_directory(folder)
    model = _load(recipe, backbone, settings)
    before = _outcome(model, None)
    tried: dict[str, list[Tried]] = {}
    logged = time.monotonic()
    with (
        Progress(console=Console(stderr=True), transient=True) as progress,
        SummaryWriter(str(recipe.output / "tensorboard" / "search")) as writer,
    ):
        for method in settings.methods:
            task = progress.add_task(f"search {method}", total=settings.trials)
            journal = TrialJournal(folder / f"{method}.jsonl")
            study = _study(method, settings, recipe.seed)
            found = tried.setdefault(method, [])
            for number in range(settings.trials):
                trial = study.ask()
                suggested = suggest(trial, method, settings, recipe.merge)
                outcome = journal.outcome(number, suggested)
                if outcome is None:
                    outcome = _outcome(model, suggested)
                    journal.add(number, suggested, outcome)
                    for axis, value in outcome.as_dict().items():
                        writer.add_scalar(f"search_{method}/{axis}(fraction)", value, number)
                # Or the search would follow merges that answer nothing: no harm, no refusals.
                trial.set_constraint("margins", violation(before, outcome, settings))
                study.tell(trial, [outcome.harmful_rate, outcome.refusal_rate])
                found.append((suggested, outcome))
                progress.advance(task)
                if not progress.console.is_terminal and time.monotonic() - logged > _LOG_SECONDS:
                    logged = time.monotonic()
                    logger.info("search %s: trial %d of %d", method, number + 1, settings.trials)
    chosen = {method: choose(before, found, settings) for method, found in tried.items()}
    for method, found in chosen.items():
        logger.info("search %s: chose %s", method, settings_line(found.model_dump()))
    record = _record(before, tried, chosen, settings)
    write_result(record, folder)
    atomic_write_json(folder / "search.json", record)
    return chosen


def _outcome(model: BorrowedModel, settings: MergeSettings | None) -> Outcome:
    return Outcome(**{axis: rate.value for axis, rate in model.rates(settings).items()})


def _load(recipe: Recipe, backbone: Path, settings: SearchSettings) -> BorrowedModel:
    evaluation = recipe.eval
    return BorrowedModel(
        load_model(backbone, resolve_dtype(evaluation.dtype if evaluation else "auto")),
        load_tokenizer(backbone),
        LoadedInputs.read(
            backbone, recipe.output / "safety", recipe.output / "over_safety", recipe.merge
        ),
        load_prompts(load_suite(settings.suite, evaluation.data_dir if evaluation else None)),
        evaluation.batch_tokens if evaluation else DEFAULT_BATCH_TOKENS,
    )


def _record(
    before: Outcome,
    tried: dict[str, list[Tried]],
    chosen: dict[str, MergeSettings],
    settings: SearchSettings,
) -> dict[str, Any]:
    """The content of search.json; front and choice are those of the first method."""
    first = settings.methods[0]
    front = pareto_front(tried[first], before, settings)
    return {
        "split": "validation",
        "rule": RULE,
        "backbone": before.as_dict(),
        "chosen": {method: found.model_dump(mode="json") for method, found in chosen.items()},
        "trials": [
            {
                "settings": pair[0].model_dump(mode="json"),
                **pair[1].as_dict(),
                "pareto": method == first and pair in front,
                "chosen": pair[0] == chosen[first],
            }
            for method, pairs in tried.items()
            for pair in pairs
        ],
    }


def suggest(
    trial: optuna.Trial, method: SearchMethod, settings: SearchSettings, base: MergeSettings
) -> MergeSettings:
    """Merge settings for one trial; what the method does not use keeps the recipe's value."""
    rule = METHODS[method]
    low, high = settings.patch_weights
    values: dict[str, Any] = {"alpha": trial.suggest_float("alpha", low, high, log=True)}
    # TIES has one factor for both.
    one_factor = method == "ties"
    values["beta"] = (
        values["alpha"] if one_factor else trial.suggest_float("beta", low, high, log=True)
    )
    if rule.drawn:
        values["retention"] = trial.suggest_float("retention", *settings.retentions)
    if rule.masked and not rule.by_magnitude:
        values["score"] = trial.suggest_categorical("score", ["weight", "delta"])
        values["scope"] = trial.suggest_categorical("scope", ["tensor", "model"])
    if rule.masked:
        low, high = settings.top_rates
        for key in ("top_safety", "top_over_safety"):
            values[key] = trial.suggest_float(key, low, high, log=True)
    return base.model_copy(update={"method": method, **values})


def _study(method: str, settings: SearchSettings, seed: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=int(_RANDOM_SHARE * settings.trials)
    )
    return optuna.create_study(
        study_name=method, sampler=sampler, directions=["minimize", "minimize"]
    )
