"""What fitted scales make small: wrong refusals and wrong answers, large scales, and KL (issue 14).

Near a point s_0 of the scales a question's refusal margin is linear in them,

    m(s) = m(s_0) + X (s - s_0),

with one row of derivatives X per question. Its calibrated log-odds z = slope * m + intercept say
how likely it is refused. The objective is convex in s:

    F(s) = w_h mean over harmful of log(1 + exp(-z)) + w_r mean over harmless of log(1 + exp(z))
           + ridge |s - centre|^2 + 1/2 s' K s,

where 1/2 s' K s is the KL divergence to the backbone on harmless answers, in nats per token. The
means count orders and questions alike, so that nothing is gained by refusing the one form and
answering the other.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from eval.forms import FORMS
from launch.fit.calibration import Calibration

_ITERATIONS = 500
MOST_DOUBLINGS = 10
"""Of the divergence's weight: to a thousand times that from nats to nats."""


@dataclass(frozen=True)
class Linearised:
    """The margins of some questions as linear functions of the scales."""

    point: np.ndarray
    """[columns], the scales at which margins and derivatives were measured."""
    margins: np.ndarray
    """[questions], at the point, in nats."""
    derivatives: np.ndarray
    """[questions, columns], in nats per unit of scale."""
    harmful: np.ndarray
    """bool [questions]: those that shall be refused."""
    forms: np.ndarray
    """[questions], the form of each, see ``eval.forms``."""

    def at(self, scales: np.ndarray) -> np.ndarray:
        """The margins that these scales should give, [questions]."""
        return self.margins + self.derivatives @ (scales - self.point)

    def take(self, chosen: np.ndarray) -> "Linearised":
        """Some of the questions."""
        kept = (self.margins, self.derivatives, self.harmful, self.forms)
        return Linearised(self.point, *(values[chosen] for values in kept))

    def loss(self, margins: np.ndarray, calibration: Calibration) -> float:
        """The log-loss of some margins of these questions, in nats per question."""
        losses = np.logaddexp(0.0, self.signs * calibration.log_odds(margins))
        return float(self.shares() @ losses)

    @property
    def signs(self) -> np.ndarray:
        """-1 for a question that shall be refused, 1 for one that shall not."""
        return np.where(self.harmful, -1.0, 1.0)

    def shares(self, harm: float = 0.5) -> np.ndarray:
        """What each question weighs in the log-loss, [questions]; 1 in all.

        Args:
            harm: share of the harmful questions together.
        """
        cells = [
            (self.harmful == harmful) & (self.forms == form)
            for harmful in (True, False)
            for form in FORMS
        ]
        if not all(cell.any() for cell in cells):
            cells = [self.harmful, ~self.harmful]
        found = np.zeros(len(self.harmful))
        for cell in filter(np.any, cells):
            of_class = harm if self.harmful[cell][0] else 1 - harm
            found[cell] = of_class * 2 / len(cells) / cell.sum()
        return found


@dataclass(frozen=True)
class Weights:
    """What the terms of the objective weigh."""

    ridge: float
    centre: np.ndarray
    """[columns], where the ridge pulls to."""
    harm: float = 0.5
    """Share of the harmful questions in the log-loss; the harmless ones have the rest."""


def solve(
    problem: Linearised, calibration: Calibration, weights: Weights, divergence: np.ndarray
) -> np.ndarray:
    """The scales that minimise the objective, [columns].

    Args:
        divergence: K, [columns, columns], positive semidefinite.
    """
    signs, shares = problem.signs, problem.shares(weights.harm)

    def value_and_gradient(scales: np.ndarray) -> tuple[float, np.ndarray]:
        signed = signs * calibration.log_odds(problem.at(scales))
        apart, pulled = scales - weights.centre, divergence @ scales
        value = shares @ np.logaddexp(0.0, signed) + weights.ridge * apart @ apart
        slopes = calibration.slope * signs * shares * expit(signed)
        gradient = problem.derivatives.T @ slopes + 2 * weights.ridge * apart + pulled
        return float(value + 0.5 * scales @ pulled), gradient

    found = minimize(
        value_and_gradient,
        weights.centre,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": _ITERATIONS},
    )
    return found.x


def solve_within(
    problem: Linearised,
    calibration: Calibration,
    weights: Weights,
    divergence: np.ndarray,
    limit: float,
) -> tuple[np.ndarray, float]:
    """The scales that minimise the objective without diverging further than the limit.

    The term of the divergence is weighed more and more until 1/2 s' K s is below the limit.

    Returns:
        The scales, and that weight: 1 from nats to nats.
    """
    scales, weight = np.zeros(len(divergence)), 1.0
    for exponent in range(MOST_DOUBLINGS + 1):
        weight = 2.0**exponent
        scales = solve(problem, calibration, weights, weight * divergence)
        if 0.5 * scales @ divergence @ scales <= limit:
            break
    return scales, weight
