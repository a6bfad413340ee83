"""The fit of a merge's scales: linearise, cross-validate, solve, and look at what truly came of it.

Gauss-Newton on the objective of ``launch.fit.objective``: margins are linearised at the backbone,
then again where the last step led; how far a step goes is decided by margins that are measured,
not foretold. Every merge that is measured on the way is a candidate of the search.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from launch.choice import Tried
from launch.fit.columns import GROUPINGS, Column, Grouping, columns_of, sum_columns, with_scales
from launch.fit.cross_validation import Candidate, Validated, best_global, spread, validate
from launch.fit.kept import KeptDerivatives
from launch.fit.objective import Linearised, Weights, solve_within
from launch.margin_model import MarginModel, Measured
from merge.progress import Progress
from merge.recipe import MergeSettings

logger = logging.getLogger(__name__)

_STEPS = (1.0, 0.5, 0.25)
"""Lengths of a step that are tried, as shares of the whole one."""
_HARM_SHARES = (0.2, 0.35, 0.65, 0.8)
"""Of harmful questions in the log-loss, for merges beside the balanced one on the front."""
_DIVERGENCE_SHARES = (0.75, 0.55, 0.4, 0.3, 0.2, 0.1)
"""Of the fit's own divergence, for merges that change less and keep more of utility."""


@dataclass(frozen=True)
class Fit:
    """What a fit has found."""

    tried: list[Tried]
    """All merges that were measured, the last step's first."""
    best: Validated
    """The way to fit that cross-validation chose."""
    scales: dict[Column, float]
    validated: list[Validated]

    def as_dict(self) -> dict[str, Any]:
        """For search.json."""
        return {
            "grouping": self.best.candidate.grouping,
            "scales": len(self.scales),
            "negative_scales": sum(scale < 0 for scale in self.scales.values()),
            "ridge": self.best.ridge,
            "centre": "global scales" if self.best.from_global else "backbone",
            "held_out_loss": self.best.loss,
            "held_out_auc": self.best.auc,
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
        finest: the grouping with the most scales that may be tried.
        questions: how many of the validation prompts are differentiated, evenly spaced.
        rounds: linearisations.
        folder: derivatives are kept there, so that a search that was stopped goes on.
        most_divergence: how far from the backbone a step may lead, as the linearisation foretells
            it, in nats per token.
    """

    model: MarginModel
    base: MergeSettings
    finest: Grouping
    questions: int
    rounds: int
    most_divergence: float
    folder: Path
    _tried: list[Tried] = field(default_factory=list)
    _progress: Progress = field(default_factory=lambda: Progress("fit", None, "merges"))

    def run(self) -> Fit:
        """Fit, and measure what the fitted merges do."""
        model = self.model
        assert model.calibration is not None
        chosen = spaced(len(model.prompts), self.questions)
        kept = KeptDerivatives(model, self.base, chosen, self.folder)
        zero, fisher = kept.at_backbone(), kept.fisher()
        groupings = GROUPINGS[: GROUPINGS.index(self.finest) + 1]
        candidates = [
            self._candidate(grouping, zero, fisher, chosen, model.backbone)
            for grouping in groupings
        ]
        validated = validate(candidates, model.calibration)
        best = validated[0]
        logger.info(
            "fit: %d scales by %s, ridge %g: held-out AUC %.3f",
            len(best.candidate.columns), best.candidate.grouping, best.ridge, best.auc,
        )  # fmt: skip
        with self._progress:
            scales = self._gauss_newton(candidates[0], best, kept)
        return Fit(
            tried=self._tried[::-1],
            best=best,
            scales=dict(zip(best.candidate.columns, scales.tolist(), strict=True)),
            validated=validated,
        )

    def _gauss_newton(
        self, global_: Candidate, best: Validated, kept: KeptDerivatives
    ) -> np.ndarray:
        calibration, candidate, chosen = self.model.calibration, best.candidate, kept.chosen
        assert calibration is not None
        centre = np.zeros(len(candidate.columns))
        if best.from_global:
            centre = spread(best_global(global_, calibration, best.ridge), global_, candidate)
        point, problem = np.zeros_like(centre), candidate.problem
        reached = self._objective(point, self.model.backbone, best, centre, chosen)
        for number in range(self.rounds):
            if number:
                problem = self._linearised(candidate, point, number, kept)
            target = self._solve(problem, candidate, Weights(best.ridge, centre))
            point, value = self._step(point, target, reached, best, centre, chosen)
            if value >= reached:
                break
            reached = value
        for harm in _HARM_SHARES:
            weights = Weights(best.ridge, centre, harm)
            self._measured(candidate, self._solve(problem, candidate, weights))
        gone = 0.5 * float(point @ candidate.divergence @ point)
        for share in _DIVERGENCE_SHARES:
            weights = Weights(best.ridge, centre)
            self._measured(candidate, self._solve(problem, candidate, weights, share * gone))
        return point

    def _solve(
        self,
        problem: Linearised,
        candidate: Candidate,
        weights: Weights,
        limit: float | None = None,
    ) -> np.ndarray:
        calibration = self.model.calibration
        assert calibration is not None
        limit = self.most_divergence if limit is None else limit
        return solve_within(problem, calibration, weights, candidate.divergence, limit)

    def _step(
        self,
        start: np.ndarray,
        target: np.ndarray,
        reached: float,
        best: Validated,
        centre: np.ndarray,
        chosen: np.ndarray,
    ) -> tuple[np.ndarray, float]:
        """The best of some points on the way to the target; the start where none is better."""
        found, least = start, reached
        for share in _STEPS:
            point = start + share * (target - start)
            measured = self._measured(best.candidate, point)
            value = self._objective(point, measured, best, centre, chosen)
            logger.info("fit: %.2f of the step: objective %.4f, was %.4f", share, value, reached)
            if value < least:
                found, least = point, value
        return found, least

    def _objective(
        self,
        point: np.ndarray,
        measured: Measured,
        best: Validated,
        centre: np.ndarray,
        chosen: np.ndarray,
    ) -> float:
        assert self.model.calibration is not None
        loss = best.candidate.problem.loss(measured.margins[chosen], self.model.calibration)
        apart = point - centre
        return loss + best.ridge * float(apart @ apart) + measured.divergence

    def _measured(self, candidate: Candidate, point: np.ndarray) -> Measured:
        settings = self._settings(candidate, point)
        measured = self.model.measure(settings)
        self._tried.append((settings, self.model.estimate(measured)))
        self._progress.advance()
        return measured

    def _candidate(
        self,
        grouping: Grouping,
        derivatives: np.ndarray,
        fisher: np.ndarray,
        chosen: np.ndarray,
        measured: Measured,
    ) -> Candidate:
        names, method = self.model.borrowed.loaded.inputs.covered, self.base.method
        columns = columns_of(names, grouping, method)
        found, divergence = (
            sum_columns(each, names, columns, grouping, method) for each in (derivatives, fisher)
        )
        return Candidate(
            grouping,
            tuple(columns),
            self._problem(np.zeros(len(columns)), measured, found, chosen),
            divergence.T @ divergence / max(len(divergence), 1),
        )

    def _linearised(
        self, candidate: Candidate, point: np.ndarray, number: int, kept: KeptDerivatives
    ) -> Linearised:
        """The margins as linear functions of the scales around a point."""
        settings = self._settings(candidate, point)
        point, derivatives = kept.around(number, point, settings)
        names = self.model.borrowed.loaded.inputs.covered
        found = sum_columns(
            derivatives, names, candidate.columns, candidate.grouping, self.base.method
        )
        measured = self.model.measure(self._settings(candidate, point))
        return self._problem(point, measured, found, kept.chosen)

    def _problem(
        self, point: np.ndarray, measured: Measured, derivatives: np.ndarray, chosen: np.ndarray
    ) -> Linearised:
        model = self.model
        return Linearised(
            point, measured.margins[chosen], derivatives, model.harmful[chosen], model.forms[chosen]
        )

    def _settings(self, candidate: Candidate, point: np.ndarray) -> MergeSettings:
        return with_scales(self.base, dict(zip(candidate.columns, point, strict=True)))


def spaced(size: int, wanted: int) -> np.ndarray:
    """``wanted`` of so many places, evenly spaced; all of them where they are few."""
    if wanted >= size:
        return np.arange(size)
    return np.arange(wanted) * size // wanted
