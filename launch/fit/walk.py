"""The way from the backbone to a fit's merges: by true margins, and as far as utility allows.

Gauss-Newton on the objective of ``launch.fit.objective``: margins are linearised at the backbone,
then again where the last step led; how far a step goes is decided by margins that are measured,
not foretold. A fit that repairs much may cost utility; so at last the strongest merge that keeps
the search's margins is looked for, by bisection on what the divergence from the backbone weighs.
"""

import logging
from dataclasses import dataclass, field

import numpy as np

from launch.choice import Tried, violation
from launch.fit.columns import sum_columns, with_scales
from launch.fit.cross_validation import Validated
from launch.fit.kept import KeptMeasurements
from launch.fit.objective import MOST_DOUBLINGS, Linearised, Weights, solve, solve_within
from launch.margin_model import MarginModel, Measured
from launch.recipe import SearchSettings
from merge.progress import Progress
from merge.recipe import MergeSettings

logger = logging.getLogger(__name__)

_STEPS = (1.0, 0.5, 0.25)
"""Lengths of a step that are tried, as shares of the whole one."""
_HARM_SHARES = (0.2, 0.35, 0.65, 0.8)
"""Of harmful questions in the log-loss, for merges beside the balanced one on the front."""
_HALVINGS = 6
"""Of the range of weights in which the strongest merge that keeps the margins is looked for."""


@dataclass
class Walk:
    """One walk; every merge that is measured on the way is a candidate of the search.

    Attributes:
        base: the merge whose masks are used; its scales do not matter.
        best: the way to fit that cross-validation chose.
        centre: [columns], where the ridge pulls to.
        tried: all merges that were measured, in their order.
    """

    model: MarginModel
    base: MergeSettings
    search: SearchSettings
    best: Validated
    centre: np.ndarray
    kept: KeptMeasurements
    tried: list[Tried] = field(default_factory=list)
    _progress: Progress = field(default_factory=lambda: Progress("fit", None, "merges"))

    def run(self) -> np.ndarray:
        """Walk to the end.

        Returns:
            The scales of the least objective, [columns].
        """
        with self._progress:
            point, problem, weight = self._gauss_newton()
            weight = self._strongest(problem, weight)
            for harm in _HARM_SHARES:
                self._measured(self._solved(problem, weight, harm))
        return point

    def _gauss_newton(self) -> tuple[np.ndarray, Linearised, float]:
        """The point, the last linearisation, and what the divergence weighs in its solution."""
        calibration = self.model.calibration
        assert calibration is not None
        candidate, weights = self.best.candidate, Weights(self.best.ridge, self.centre)
        point, problem, weight = np.zeros_like(self.centre), candidate.problem, 1.0
        reached = self._objective(point, self.model.backbone)
        for number in range(self.search.fit_rounds):
            if number:
                problem = self._linearised(point, number)
            target, weight = solve_within(
                problem, calibration, weights, candidate.divergence, self.search.max_divergence
            )
            point, value = self._step(point, target, reached)
            if value >= reached:
                break
            reached = value
        return point, problem, weight

    def _step(
        self, start: np.ndarray, target: np.ndarray, reached: float
    ) -> tuple[np.ndarray, float]:
        """The best of some points on the way to the target; the start where none is better."""
        found, least = start, reached
        for share in _STEPS:
            point = start + share * (target - start)
            value = self._objective(point, self._measured(point))
            logger.info("fit: %.2f of the step: objective %.4f, was %.4f", share, value, reached)
            if value < least:
                found, least = point, value
        return found, least

    def _strongest(self, problem: Linearised, weight: float) -> float:
        """The least weight of the divergence, from ``weight`` on, whose merge keeps the margins."""
        if self._keeps_margins(self._solved(problem, weight)):
            return weight
        low, high = np.log2(weight), float(MOST_DOUBLINGS)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if self._keeps_margins(self._solved(problem, 2.0**middle)):
                high = middle
            else:
                low = middle
        logger.info("fit: the margins hold where the divergence weighs %.1f", 2.0**high)
        return 2.0**high

    def _keeps_margins(self, point: np.ndarray) -> bool:
        outcome = self.model.estimate(self._measured(point))
        return violation(self.model.before, outcome, self.search) == 0

    def _solved(self, problem: Linearised, weight: float, harm: float = 0.5) -> np.ndarray:
        assert self.model.calibration is not None
        weights = Weights(self.best.ridge, self.centre, harm)
        divergence = weight * self.best.candidate.divergence
        return solve(problem, self.model.calibration, weights, divergence)

    def _objective(self, point: np.ndarray, measured: Measured) -> float:
        assert self.model.calibration is not None
        margins = measured.margins[self.kept.chosen]
        loss = self.best.candidate.problem.loss(margins, self.model.calibration)
        apart = point - self.centre
        return loss + self.best.ridge * float(apart @ apart) + measured.divergence

    def _measured(self, point: np.ndarray) -> Measured:
        settings = self._settings(point)
        measured = self.kept.merge(settings)
        self.tried.append((settings, self.model.estimate(measured)))
        self._progress.advance()
        return measured

    def _linearised(self, point: np.ndarray, number: int) -> Linearised:
        """The margins as linear functions of the scales around a point."""
        point, derivatives = self.kept.around(number, point, self._settings(point))
        candidate, chosen = self.best.candidate, self.kept.chosen
        names = self.model.borrowed.loaded.inputs.covered
        found = sum_columns(
            derivatives, names, candidate.columns, candidate.grouping, self.base.method
        )
        measured = self.kept.merge(self._settings(point))
        start = candidate.problem
        return Linearised(point, measured.margins[chosen], found, start.harmful, start.forms)

    def _settings(self, point: np.ndarray) -> MergeSettings:
        columns = self.best.candidate.columns
        return with_scales(self.base, dict(zip(columns, point, strict=True)))
