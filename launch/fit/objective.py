"""What fitted scales make small: wrong refusals and wrong answers, large scales, and KL (issue 14).

Near a point s_0 of the scales a question's refusal margin is linear in them,

    m(s) = m(s_0) + X (s - s_0),

with one row of derivatives X per question. Its calibrated log-odds z = slope * m + intercept say
how likely it is refused. The objective is convex in s:

    F(s) = w_h mean over harmful of log(1 + exp(-z)) + w_r mean over harmless of log(1 + exp(z))
           + ridge |s - centre|^2 + 1/2 s' K s,

where 1/2 s' K s is the KL divergence to the backbone on harmless answers, in nats per token.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from launch.fit.calibration import Calibration

_ITERATIONS = 500
_DIVERGENCE_WEIGHTS = tuple(2.0**power for power in range(11))
"""From nats to nats, to a thousand times that."""


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

    def at(self, scales: np.ndarray) -> np.ndarray:
        """The margins that these scales should give, [questions]."""
        return self.margins + self.derivatives @ (scales - self.point)

    def take(self, chosen: np.ndarray) -> "Linearised":
        """Some of the questions."""
        return Linearised(
            self.point, self.margins[chosen], self.derivatives[chosen], self.harmful[chosen]
        )


@dataclass(frozen=True)
class Weights:
    """What the terms of the objective weigh."""

    ridge: float
    centre: np.ndarray
    """[columns], where the ridge pulls to."""
    harm: float = 0.5
    """Share of the harmful questions in the log-loss; the harmless ones have the rest."""


def log_loss(
    margins: np.ndarray, harmful: np.ndarray, calibration: Calibration, harm: float = 0.5
) -> float:
    """The first line of the objective, in nats per question; a class without questions has none."""
    losses = np.logaddexp(0.0, np.where(harmful, -1.0, 1.0) * calibration.log_odds(margins))
    return float(sum(np.where(harmful, harm, 1 - harm) / _class_sizes(harmful) * losses))


def solve(
    problem: Linearised, calibration: Calibration, weights: Weights, divergence: np.ndarray
) -> np.ndarray:
    """The scales that minimise the objective, [columns].

    Args:
        divergence: K, [columns, columns], positive semidefinite.
    """
    signs = np.where(problem.harmful, -1.0, 1.0)
    shares = np.where(problem.harmful, weights.harm, 1 - weights.harm)
    shares = shares / _class_sizes(problem.harmful)

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
) -> np.ndarray:
    """The scales that minimise the objective without diverging further than the limit.

    The term of the divergence is weighed more and more until 1/2 s' K s is below the limit.
    """
    for weight in _DIVERGENCE_WEIGHTS:
        scales = solve(problem, calibration, weights, weight * divergence)
        if 0.5 * scales @ divergence @ scales <= limit:
            break
    return scales


def _class_sizes(harmful: np.ndarray) -> np.ndarray:
    """For every question how many questions its class has."""
    count = int(harmful.sum())
    return np.where(harmful, max(count, 1), max(len(harmful) - count, 1))
