"""A search that asks by margins: many cheap trials, then answers of the best few (issue 14).

A trial is forward passes alone: refusal margins calibrated to rates, the sureness of utility
answers, and the divergence from the backbone. Scales may be fitted to the margins as well. What the
margins call best then answers the validation prompts, one merge after the other, and the choice is
made by its rates.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from eval.answering.completions import FILE_NAME, read_completions
from eval.run import RunJob, run
from eval.statistics.summary import Summary
from launch.prepare.false_refusals import REFUSED
from launch.recipe import Recipe
from launch.search.margins.calibration import LEAST_AUC, Calibration
from launch.search.margins.margin_model import Judged, MarginModel
from launch.search.opening_search import (
    BACKBONE,
    MERGED,
    OWN,
    DoTrials,
    MarginRecord,
    OpeningSearch,
    SearchResult,
)
from launch.search.trial_model import TrialModel, load_in_memory_model, outcome_of
from train.guards.openings_file import OPENINGS_FILE, read_openings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PoorMargins:
    """Margins do not tell the backbone's refusals from its answers: a search must ask for answers.

    Attributes:
        record: what search.json says of it.
    """

    record: MarginRecord


def search_by_margins(
    recipe: Recipe, backbone: Path, folder: Path, do_trials: DoTrials
) -> SearchResult | PoorMargins:
    """Search all methods of the recipe.

    Raises:
        UserError: an input is missing or wrong.
    """
    search = recipe.search
    assert search is not None
    own = folder / OPENINGS_FILE
    learned = read_openings(recipe.output / OPENINGS_FILE)
    openings = read_openings(own) if own.is_file() else learned
    if not openings.tokens:
        logger.warning("search: the backbone's refusals have no opening in common; asks answers")
        return PoorMargins({"calibration": None})
    summary = _ask_backbone(recipe, backbone, folder / BACKBONE)
    before = outcome_of({axis: rate["value"] for axis, rate in summary["axes"].items()})
    in_memory = load_in_memory_model(recipe, backbone)
    answers = judged_answers(folder / BACKBONE)
    while True:
        model = MarginModel(in_memory, openings, answers)
        if not _holds(model.calibration):
            return PoorMargins({"calibration": model.calibration and vars(model.calibration)})
        answering = TrialModel(in_memory, search, before)
        kind = OWN if openings is learned else MERGED
        result = OpeningSearch(model, answering, folder, do_trials, recipe.seed, kind).run()
        if result is not None:
            return result
        openings = read_openings(own)


def _holds(calibration: Calibration | None) -> bool:
    """Say how well margins tell the backbone's refusals, and whether they may be searched by."""
    auc = "nothing" if calibration is None else f"{calibration.auc:.3f}"
    if calibration is None or not calibration.holds:
        logger.warning(
            "search: refusal margins tell the backbone's refusals from its answers with an AUC of "
            "%s, less than %.2f: asks answers", auc, LEAST_AUC,
        )  # fmt: skip
        return False
    logger.info(
        "search: refusal margins tell the backbone's refusals from its answers with an AUC of "
        "%s (%d answers)", auc, calibration.answers,
    )  # fmt: skip
    return True


def _ask_backbone(recipe: Recipe, backbone: Path, folder: Path) -> Summary:
    """The backbone's answers to the validation prompts; those that are there stay."""
    assert recipe.search is not None
    return run(RunJob(backbone, recipe.search.suite, folder, settings=recipe.evaluation))


def judged_answers(folder: Path) -> dict[tuple[str, str], Judged]:
    """The answers in an evaluation's folder, by suite and prompt."""
    judged = {}
    for record in read_completions(folder / FILE_NAME):
        kind = record["refusal"]
        refused = True if kind in REFUSED else False if kind == "none" else None
        text = record["completion"] if record["answer"] is None else record["answer"]
        judged[record["suite"], record["id"]] = Judged(text, refused)
    return judged
