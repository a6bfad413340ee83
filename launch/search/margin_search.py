"""A search that asks by margins: many cheap trials, then answers of the best few (issue 14).

A trial is forward passes alone: refusal margins calibrated to rates, the sureness of utility
answers, and the divergence from the backbone. Scales may be fitted to the margins as well. What the
margins call best then answers the validation prompts, and the choice is made by its rates.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.answering.completions import FILE_NAME, read_completions
from eval.run import RunJob, run
from eval.suites.form_check import check_forms
from launch.prepare.false_refusals import REFUSED
from launch.recipe import Recipe
from launch.search.choice import Outcome, Tried, pareto_front, violation, worse_ratio
from launch.search.fit.margin_fit import can_be_fitted, fit_merge, predict
from launch.search.margins.calibration import LEAST_AUC
from launch.search.margins.margin_model import Judged, MarginModel
from launch.search.settings import SearchMethod, SearchSettings
from launch.search.trial_journal import TrialJournal
from launch.search.trial_model import TrialModel, borrow_model, outcome_of
from merge.common.progress import Progress
from train.guards.openings_file import OPENINGS_FILE, read_openings

logger = logging.getLogger(__name__)

_BACKBONE = "backbone"

Walk = Callable[[MarginModel, SearchMethod, TrialJournal], list[Tried]]
"""Does all trials of a method and gives them back, in their order."""


@dataclass
class MarginSearch:
    """What a search by margins has found.

    Attributes:
        before: the backbone's rates, by its answers.
        answered: by method the merges that were asked for answers, with their rates.
        estimated: by method all other merges, with rates that are estimates from margins.
        record: what search.json says of the margins.
    """

    before: Outcome
    answered: dict[SearchMethod, list[Tried]] = field(default_factory=dict)
    estimated: dict[SearchMethod, list[Tried]] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PoorMargins:
    """Margins do not tell the backbone's refusals from its answers: a search must ask for answers.

    Attributes:
        record: what search.json says of it.
    """

    record: dict[str, Any]


def search_by_margins(
    recipe: Recipe, backbone: Path, folder: Path, walk: Walk
) -> MarginSearch | PoorMargins:
    """Search all methods of the recipe.

    Raises:
        UserError: an input is missing or wrong.
    """
    search = recipe.search
    assert search is not None
    openings = read_openings(recipe.output / OPENINGS_FILE)
    if not openings.tokens:
        logger.warning("search: the backbone's refusals have no opening in common; asks answers")
        return PoorMargins({"calibration": None})
    summary = _ask_backbone(recipe, backbone, folder / _BACKBONE)
    before = outcome_of({axis: found["value"] for axis, found in summary["axes"].items()})
    borrowed = borrow_model(recipe, backbone)
    model = MarginModel(borrowed, openings, judged_answers(folder / _BACKBONE))
    calibration = model.calibration
    if calibration is None or not calibration.holds:
        logger.warning(
            "search: refusal margins tell the backbone's refusals from its answers with an AUC of "
            "%s, less than %.2f: asks answers",
            "nothing" if calibration is None else f"{calibration.auc:.3f}", LEAST_AUC,
        )  # fmt: skip
        return PoorMargins({"calibration": calibration and vars(calibration)})
    logger.info(
        "search: refusal margins tell the backbone's refusals from its answers with an AUC of "
        "%.3f (%d answers)", calibration.auc, calibration.answers,
    )  # fmt: skip
    found = MarginSearch(before)
    found.record["calibration"] = vars(calibration)
    found.record["first_words"] = _check_first_words(model)
    answering = TrialModel(borrowed, search, before)
    for method in search.methods:
        tried = walk(model, method, TrialJournal(folder / f"{method}.margins.jsonl"))
        if can_be_fitted(method, model, search):
            bases = by_estimate(tried, model.before, search)[: search.fit_starts]
            if method == search.methods[0]:
                first = bases[0][0]
                found.record["prediction"] = predict(model, first, search, folder)
            fits = [fit_merge(model, base, search, folder) for base, _ in bases]
            fit = min(fits, key=lambda each: each.best.loss)
            tried = [*(pair for each in fits for pair in each.tried), *tried]
            found.record.setdefault("fit", {})[method] = fit.as_dict()
        found.estimated[method] = tried
        found.answered[method] = _answered(
            finalists(tried, model.before, search), answering,
            TrialJournal(folder / f"{method}.jsonl"),
        )  # fmt: skip
    return found


def finalists(tried: list[Tried], before: Outcome, search: SearchSettings) -> list[Tried]:
    """The merges that are asked for answers: the best of the front, by their estimated rates.

    Args:
        before: the backbone's estimated rates.
    """
    front = pareto_front(tried, before, search) or tried
    return by_estimate(front, before, search)[: search.answered]


def by_estimate(tried: list[Tried], before: Outcome, search: SearchSettings) -> list[Tried]:
    """Merges by their estimated rates, the best first.

    Args:
        before: the backbone's estimated rates.
    """

    def badness(pair: Tried) -> tuple[float, float]:
        return violation(before, pair[1], search), worse_ratio(before, pair[1])

    return sorted(tried, key=badness)


def _check_first_words(model: MarginModel) -> dict[str, float] | None:
    """Warn where the first words alone tell the prompts of both axes apart: a fit learns them."""
    harmful, harmless = (
        [
            text
            for text, is_harmful in zip(model.texts, model.harmful, strict=True)
            if is_harmful == wanted
        ]
        for wanted in (True, False)
    )
    found = check_forms(harmful, harmless)
    if found is None:
        return None
    if 1 - found.accuracy <= (1 - found.majority) / 2:
        logger.warning(
            "search: the first words alone tell harmful from harmless validation prompts (%.0f %% "
            "right, %.0f %% by always saying one): what is chosen on them may have learned the "
            "form; add harmless prompts that begin as the harmful ones do, and the other way",
            100 * found.accuracy, 100 * found.majority,
        )  # fmt: skip
    return found._asdict()


def _ask_backbone(recipe: Recipe, backbone: Path, folder: Path) -> dict[str, Any]:
    """The backbone's answers to the validation prompts; those that are there stay."""
    assert recipe.search is not None
    return run(RunJob(backbone, recipe.search.suite, folder, settings=recipe.evaluation))


def judged_answers(folder: Path) -> dict[tuple[str, str], Judged]:
    """The answers in an evaluation's folder, by suite and prompt."""
    found = {}
    for record in read_completions(folder / FILE_NAME):
        kind = record["refusal"]
        refused = True if kind in REFUSED else False if kind == "none" else None
        text = record["completion"] if record["answer"] is None else record["answer"]
        found[record["suite"], record["id"]] = Judged(text, refused)
    return found


def _answered(chosen: list[Tried], model: TrialModel, journal: TrialJournal) -> list[Tried]:
    """Ask the best few for answers; those in the journal are not asked again."""
    found: list[Tried] = []
    with Progress("answers of the best merges", len(chosen), "merges") as progress:
        for number, (settings, _) in enumerate(chosen):
            outcome = journal.outcome(number, settings)
            if outcome is None:
                started = time.monotonic()
                outcome = model.outcome(settings, [])
                journal.add(number, settings, outcome, time.monotonic() - started)
                progress.advance()
            else:
                progress.skip()
            found.append((settings, outcome))
    return found
