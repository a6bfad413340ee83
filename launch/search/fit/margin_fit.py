"""The fit of scales inside a search: whether there is one, and what it predicts."""

import logging
from pathlib import Path

from launch.search.fit.columns import FITTED, GROUPINGS
from launch.search.fit.cross_validation import FOLDS
from launch.search.fit.fitting import Fit, ScaleFit
from launch.search.fit.kept import KeptMeasurements, spaced_places
from launch.search.fit.prediction import PredictionRecord, Questions, write_prediction
from launch.search.margins.margin_model import MarginModel
from launch.search.settings import SearchMethod, SearchSettings
from merge.settings import MergeSettings

logger = logging.getLogger(__name__)

_MEASURED = "fit"


def can_be_fitted(method: SearchMethod, model: MarginModel, search: SearchSettings) -> bool:
    """Whether scales are wanted, the method is linear in them, and the prompts suffice."""
    if search.fit == "none" or method not in FITTED:
        return False
    harmful = model.harmful[spaced_places(len(model.prompts), search.fit_prompts)]
    fewest = min(int(harmful.sum()), int((~harmful).sum()))
    if fewest < FOLDS:
        logger.warning(
            "search: no scales are fitted, as cross-validation needs %d prompts of either axis, "
            "and there are %d", FOLDS, fewest,
        )  # fmt: skip
    return fewest >= FOLDS


def fit_merge(
    model: MarginModel,
    base: MergeSettings,
    search: SearchSettings,
    folder: Path,
) -> Fit:
    """Fit the scales of a merge, with its masks.

    Args:
        folder: the search's.
    """
    assert search.fit != "none"
    return ScaleFit(model, base, search, folder / _MEASURED).run()


def predict(
    model: MarginModel,
    base: MergeSettings,
    search: SearchSettings,
    folder: Path,
) -> PredictionRecord:
    """Write what the patches can do with the masks of a merge, and tell it.

    A fit from the same merge takes the derivatives that this leaves.

    Args:
        folder: the search's.

    Returns:
        The content of prediction.json.
    """
    assert search.fit != "none" and model.calibration is not None
    kept = KeptMeasurements.of(model, base, search.fit_prompts, folder / _MEASURED)
    chosen = kept.chosen
    questions = Questions(
        forms=model.forms[chosen],
        margins=model.backbone.margins[chosen],
        harmful=model.harmful[chosen],
        calibration=model.calibration,
    )
    names = model.in_memory.loaded.inputs.covered
    groupings = GROUPINGS[: GROUPINGS.index(search.fit) + 1]
    record = write_prediction(folder, questions, names, kept.at_backbone().margins, groupings)
    for part in record["parts"]:
        logger.info(
            "prediction: %s, %d scales (%s): harm %.1f %%, refusals %.1f %%, AUC %.3f",
            part["part"], part["scales"], part["grouping"], 100 * part["harmful_rate"],
            100 * part["refusal_rate"], part["auc"],
        )  # fmt: skip
    return record
