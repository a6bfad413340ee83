"""The fit of a merge's scales: linearise, cross-validate, and walk to what comes of it."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from launch.search.choice import Trial
from launch.search.fit.columns import GROUPINGS, Column, Grouping, columns_of, sum_columns
from launch.search.fit.cross_validation import (
    Candidate,
    Validated,
    best_global,
    even_share,
    learning_curve,
    spread,
    validate,
)
from launch.search.fit.kept import KeptMeasurements
from launch.search.fit.objective import Leads, Linearised
from launch.search.fit.walk import Walk
from launch.search.margins.margin_model import MarginModel
from launch.search.settings import SearchSettings
from merge.settings import MergeSettings

logger = logging.getLogger(__name__)


class ValidatedRecord(TypedDict):
    """One way to fit, as cross-validation saw it."""

    grouping: str
    scales: int
    """How many there are."""
    ridge: float
    centre: str
    """To what the ridge draws the scales."""
    loss: float
    auc: float


class FitRecord(TypedDict):
    """What search.json says of a fit."""

    grouping: str
    scales: int
    """How many are not zero."""
    negative_scales: int
    ridge: float
    centre: str
    harm_share: float
    """What the harmful questions weigh in the log-loss."""
    held_out_loss: float
    held_out_auc: float
    learning_curve: list[dict[str, float]]
    cross_validation: list[ValidatedRecord]


@dataclass(frozen=True)
class Fit:
    """The result of a fit."""

    tried: list[Trial]
    """All merges that were measured, the last step's first."""
    best: Validated
    """The way to fit that cross-validation chose."""
    harm: float
    """Share of the harmful questions in the log-loss."""
    scales: dict[Column, float]
    validated: list[Validated]
    learning_curve: list[dict[str, float]]
    """See ``launch.search.fit.cross_validation``."""

    def as_dict(self) -> FitRecord:
        """For search.json."""
        return {
            "grouping": self.best.candidate.grouping,
            "scales": len(self.scales),
            "negative_scales": sum(scale < 0 for scale in self.scales.values()),
            "ridge": self.best.ridge,
            "centre": "global scales" if self.best.from_global else "backbone",
            "harm_share": self.harm,
            "held_out_loss": self.best.loss,
            "held_out_auc": self.best.auc,
            "learning_curve": self.learning_curve,
            "cross_validation": [
                {
                    "grouping": each.candidate.grouping,
                    "scales": len(each.candidate.columns),
                    "ridge": each.ridge,
                    "centre": "global scales" if each.from_global else "backbone",
                    "loss": each.loss,
                    "auc": each.auc,
                }
                for each in self.validated
            ],
        }


@dataclass
class ScaleFit:
    """Fits the scales of one method's merge.

    Attributes:
        base: the merge whose masks are used; its scales do not matter.
        folder: what is measured is kept there, so that a search that was stopped goes on.
    """

    model: MarginModel
    base: MergeSettings
    search: SearchSettings
    folder: Path

    def run(self) -> Fit:
        """Fit, and measure what the fitted merges do."""
        model, finest = self.model, self.search.fit
        calibration = model.calibration
        assert calibration is not None and finest != "none"
        kept = KeptMeasurements.of(model, self.base, self.search.fit_prompts, self.folder)
        candidates = [
            self._candidate(grouping, kept) for grouping in GROUPINGS[: GROUPINGS.index(finest) + 1]
        ]
        validated = validate(candidates, calibration)
        best, global_ = validated[0], candidates[0]
        logger.info(
            "fit: %d scales by %s, ridge %g: held-out AUC %.3f",
            len(best.candidate.columns), best.candidate.grouping, best.ridge, best.auc,
        )  # fmt: skip
        curve = learning_curve(best, global_, calibration)
        steps = ", ".join(f"{step['auc']:.3f} with {step['prompts']}" for step in curve)
        logger.info("fit: held-out AUC by prompts of the fit: %s", steps)
        centre = np.zeros(len(best.candidate.columns))
        if best.from_global:
            centre = spread(best_global(global_, calibration, best.ridge), global_, best.candidate)
        harm = even_share(best, global_, calibration)
        logger.info("fit: harmful questions weigh %.2f, so that both faults shrink alike", harm)
        walk = Walk(model, self.base, self.search, best, centre, harm, kept)
        scales = walk.run()
        return Fit(
            tried=walk.tried[::-1],
            best=best,
            harm=harm,
            scales=dict(zip(best.candidate.columns, scales.tolist(), strict=True)),
            validated=validated,
            learning_curve=curve,
        )

    def _candidate(self, grouping: Grouping, kept: KeptMeasurements) -> Candidate:
        model, method, chosen = self.model, self.base.method, kept.chosen
        names = model.in_memory.loaded.inputs.covered
        columns = columns_of(names, grouping, method)
        margins, leads, fisher = (
            sum_columns(each, names, columns, grouping, method)
            for each in (*kept.at_backbone(), kept.fisher())
        )
        problem = Linearised(
            point=np.zeros(len(columns)),
            margins=model.backbone.margins[chosen],
            derivatives=margins,
            harmful=model.harmful[chosen],
            forms=model.forms[chosen],
            leads=Leads(model.backbone.leads[kept.right], leads),
        )
        hessian = fisher.T @ fisher / max(len(fisher), 1)
        return Candidate(grouping, tuple(columns), problem, hessian)
