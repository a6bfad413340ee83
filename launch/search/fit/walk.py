"""The way from the backbone to a fit's merges: by true margins, and as far as utility allows.

Gauss-Newton on the objective of ``launch.search.fit.objective``: margins are linearised at the
backbone, then again where the last step led; how far a step goes is decided by margins that are
measured, not predicted. A fit that repairs much may cost utility; so at last the strongest merge
that keeps the search's margins is looked for, by bisection on the way back to the backbone, from
this fit and from a more careful one.
"""

import logging
import math
from dataclasses import dataclass, field, replace

import numpy as np

from launch.search.choice import Trial, violation, worst_remaining_ratio
from launch.search.fit.columns import sum_columns, with_scales
from launch.search.fit.cross_validation import Validated
from launch.search.fit.kept import KeptMeasurements
from launch.search.fit.objective import (
    Leads,
    Linearised,
    Weights,
    lost_leads,
    solve,
    solve_within,
)
from launch.search.margins.margin_model import MarginModel, Measured
from launch.search.settings import SearchSettings
from merge.common.progress import Progress
from merge.settings import MergeSettings

logger = logging.getLogger(__name__)

_STEPS = (1.0, 0.5, 0.25, 0.125, 0.0625)
"""Lengths of a step that may be tried, as shares of the whole one."""
_HARM_ODDS = (1 / 4, 1 / 2, 2.0, 4.0)
"""Factors of the odds of the harmful questions' share in the log-loss, for more merges."""
_CAREFUL = 4.0
"""How much more keeping weighs in a second fit, where the first one breaks a margin: a fit that is
careful from the start goes further within the margins than a bold one on its way back."""
_HALVINGS = 4
"""Steps of the bisection for the strongest merge that keeps the margins: to a sixteenth of the way,
as a few hundred prompts can hardly tell more."""


@dataclass
class Walk:
    """One walk; every merge that is measured on the way is a candidate of the search.

    Attributes:
        base: the merge whose masks are used; its scales do not matter.
        best: the way to fit that cross-validation chose.
        centre: [columns], where the ridge pulls to.
        harm: share of the harmful questions in the log-loss.
        tried: all merges that were measured, in their order.
    """

    model: MarginModel
    base: MergeSettings
    search: SearchSettings
    best: Validated
    centre: np.ndarray
    harm: float
    kept: KeptMeasurements
    tried: list[Trial] = field(default_factory=list)
    _progress: Progress = field(default_factory=lambda: Progress("fit", None, "merges"))

    def run(self) -> np.ndarray:
        """Walk to the end.

        Returns:
            The scales of the least objective, [columns].
        """
        with self._progress:
            point, problem, keeping = self._gauss_newton()
            share, ratio = self._strongest(point)
            if share < 1:
                careful = _CAREFUL * keeping
                other = self._strongest(self._solved(problem, careful, self.harm))
                if other[1] < ratio:
                    share, keeping = other[0], careful
            # At the backbone itself there would be nothing to compare.
            share = max(share, 2.0**-_HALVINGS)
            for factor in _HARM_ODDS:
                odds = factor * self.harm / (1 - self.harm)
                self._measured(share * self._solved(problem, keeping, odds / (1 + odds)))
        return point

    def _gauss_newton(self) -> tuple[np.ndarray, Linearised, float]:
        """The point, the last linearisation, and what keeping weighs in its solution."""
        calibration = self.model.calibration
        assert calibration is not None
        candidate = self.best.candidate
        weights = Weights(self.best.ridge, self.centre, self.harm)
        point, problem, keeping = np.zeros_like(self.centre), candidate.problem, 1.0
        reached = self._objective(point, self.model.backbone)
        for number in range(self.search.fit_rounds):
            if number:
                problem = self._linearised(point, number)
            target, keeping = solve_within(
                problem, calibration, weights, candidate.divergence, self.search.max_divergence
            )
            point, value = self._step(point, target, reached)
            if value >= reached:
                break
            reached = value
        return point, problem, keeping

    def _step(
        self, start: np.ndarray, target: np.ndarray, reached: float
    ) -> tuple[np.ndarray, float]:
        """The best of some points on the way to the target; the start where none is better.

        Shorter steps are tried as long as they lower the objective: a merge takes minutes.
        """
        chosen, least, last = start, reached, math.inf
        for share in _STEPS:
            point = start + share * (target - start)
            value = self._objective(point, self._measured(point))
            logger.info("fit: %.2f of the step: objective %.4f, was %.4f", share, value, reached)
            if value < least:
                chosen, least = point, value
            if value > last:
                break
            last = value
        return chosen, least

    def _strongest(self, point: np.ndarray) -> tuple[float, float]:
        """The largest share of the point whose merge keeps the margins.

        Returns:
            The share, and what that merge leaves of the faults (``worst_remaining_ratio``); that of
            the backbone where none keeps the margins.
        """
        before = self.model.before
        if not point.any():
            return 1.0, worst_remaining_ratio(before, before)

        def ratio(share: float) -> float | None:
            outcome = self.model.estimate(self._measured(share * point))
            kept = violation(before, outcome, self.search) == 0
            return worst_remaining_ratio(before, outcome) if kept else None

        whole = ratio(1.0)
        if whole is not None:
            return 1.0, whole
        low, high, reached = 0.0, 1.0, worst_remaining_ratio(before, before)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            left = ratio(middle)
            if left is None:
                high = middle
            else:
                low, reached = middle, left
        logger.info(
            "fit: the margins hold at %.2f of the way; %.2f of the faults is left", low, reached
        )
        return low, reached

    def _solved(self, problem: Linearised, keeping: float, harm: float) -> np.ndarray:
        assert self.model.calibration is not None
        weights = Weights(self.best.ridge, self.centre, harm, keeping)
        return solve(problem, self.model.calibration, weights, self.best.candidate.divergence)

    def _objective(self, point: np.ndarray, measured: Measured) -> float:
        assert self.model.calibration is not None
        margins = measured.margins[self.kept.chosen]
        loss = self.best.candidate.problem.loss(margins, self.model.calibration, self.harm)
        apart = point - self.centre
        lost = lost_leads(measured.leads[self.kept.right])
        return loss + lost + measured.divergence + self.best.ridge * float(apart @ apart)

    def _measured(self, point: np.ndarray) -> Measured:
        settings = self._settings(point)
        measured = self.kept.merge(settings)
        self.tried.append((settings, self.model.estimate(measured)))
        self._progress.advance()
        return measured

    def _linearised(self, point: np.ndarray, number: int) -> Linearised:
        """Margins and leads as linear functions of the scales around a point."""
        kept, candidate = self.kept, self.best.candidate
        point, slopes = kept.around(number, point, self._settings(point))
        names = self.model.in_memory.loaded.inputs.covered
        margins, leads = (
            sum_columns(each, names, candidate.columns, candidate.grouping, self.base.method)
            for each in slopes
        )
        measured = kept.merge(self._settings(point))
        return replace(
            candidate.problem,
            point=point,
            margins=measured.margins[kept.chosen],
            derivatives=margins,
            leads=Leads(measured.leads[kept.right], leads),
        )

    def _settings(self, point: np.ndarray) -> MergeSettings:
        columns = self.best.candidate.columns
        return with_scales(self.base, dict(zip(columns, point, strict=True)))
