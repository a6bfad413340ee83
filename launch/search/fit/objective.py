"""What fitted scales make small: wrong refusals and wrong answers, and what the merge costs.

Near a point s_0 of the scales a question's refusal margin is linear in them,

    m(s) = m(s_0) + X (s - s_0),

with one row of derivatives X per question. Its calibrated log-odds z = slope * m + intercept say
how likely it is refused. In the same way the lead u of a right answer is linear (see
``launch.search.margins.utility_leads``). The objective is convex in s (issue 14):

    F(s) = w_h mean over harmful of log(1 + exp(-z)) + w_r mean over harmless of log(1 + exp(z))
           + keeping (mean over right answers of log(1 + exp(-u)) + 1/2 s' K s)
           + ridge |s - centre|^2,

where 1/2 s' K s is the KL divergence to the backbone on harmless answers, in nats per token. The
means over prompts count orders and questions alike, so that nothing is gained by refusing the one
form and answering the other.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from eval.text.forms import FORMS
from launch.search.margins.calibration import Calibration

_ITERATIONS = 500
_MOST_DOUBLINGS = 10
"""Times that ``keeping`` is doubled at most: to a thousand times its value."""


@dataclass(frozen=True)
class Leads:
    """The leads of right answers as linear functions of the scales."""

    values: np.ndarray
    """[answers], at the point, in units of their spread."""
    derivatives: np.ndarray
    """[answers, columns], per unit of scale."""


def lost_leads(leads: np.ndarray) -> float:
    """What is paid for leads that shrink: the mean of log(1 + exp(-lead)); 0 without any."""
    return float(np.logaddexp(0.0, -leads).mean()) if len(leads) else 0.0


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
    """[questions], the form of each, see ``eval.text.forms``."""
    leads: Leads | None = None
    """Leads of answers that shall stay right, around the same point."""

    def at(self, scales: np.ndarray) -> np.ndarray:
        """The margins that these scales should give, [questions]."""
        return self.margins + self.derivatives @ (scales - self.point)

    def take(self, chosen: np.ndarray) -> "Linearised":
        """Some of the questions, and all right answers."""
        return replace(
            self,
            margins=self.margins[chosen],
            derivatives=self.derivatives[chosen],
            harmful=self.harmful[chosen],
            forms=self.forms[chosen],
        )

    def loss(self, margins: np.ndarray, calibration: Calibration, harm: float = 0.5) -> float:
        """The log-loss of some margins of these questions, in nats per question.

        Args:
            harm: share of the harmful questions together.
        """
        losses = np.logaddexp(0.0, self.signs * calibration.log_odds(margins))
        return float(self.shares(harm) @ losses)

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
        shares = np.zeros(len(self.harmful))
        for cell in filter(np.any, cells):
            of_class = harm if self.harmful[cell][0] else 1 - harm
            shares[cell] = of_class * 2 / len(cells) / cell.sum()
        return shares


@dataclass(frozen=True)
class Weights:
    """What the terms of the objective weigh."""

    ridge: float
    centre: np.ndarray
    """[columns], where the ridge pulls to."""
    harm: float = 0.5
    """Share of the harmful questions in the log-loss; the harmless ones have the rest."""
    keeping: float = 1.0
    """Weight of right answers and of the backbone's language."""


def solve(
    problem: Linearised, calibration: Calibration, weights: Weights, divergence: np.ndarray
) -> np.ndarray:
    """The scales that minimise the objective, [columns].

    Args:
        divergence: K, [columns, columns], positive semidefinite.
    """
    signs, shares = problem.signs, problem.shares(weights.harm)
    nothing = Leads(np.empty(0), np.empty((0, len(divergence))))
    leads = problem.leads or nothing

    def value_and_gradient(scales: np.ndarray) -> tuple[float, np.ndarray]:
        signed = signs * calibration.log_odds(problem.at(scales))
        apart, pulled = scales - weights.centre, divergence @ scales
        values = leads.values + leads.derivatives @ (scales - problem.point)
        value = shares @ np.logaddexp(0.0, signed) + weights.ridge * apart @ apart
        cost = lost_leads(values) + 0.5 * scales @ pulled
        slopes = calibration.slope * signs * shares * expit(signed)
        falling = leads.derivatives.T @ expit(-values) / max(len(values), 1)
        gradient = problem.derivatives.T @ slopes + 2 * weights.ridge * apart
        gradient += weights.keeping * (pulled - falling)
        return float(value + weights.keeping * cost), gradient

    solution = minimize(
        value_and_gradient,
        weights.centre,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": _ITERATIONS},
    )
    return solution.x


def solve_within(
    problem: Linearised,
    calibration: Calibration,
    weights: Weights,
    divergence: np.ndarray,
    limit: float,
) -> tuple[np.ndarray, float]:
    """The scales that minimise the objective without diverging further than the limit.

    Keeping weighs more and more until 1/2 s' K s is below the limit.

    Returns:
        The scales, and what keeping weighs at last.
    """
    scales, keeping = np.zeros(len(divergence)), weights.keeping
    for exponent in range(_MOST_DOUBLINGS + 1):
        keeping = weights.keeping * 2.0**exponent
        scales = solve(problem, calibration, replace(weights, keeping=keeping), divergence)
        if 0.5 * scales @ divergence @ scales <= limit:
            break
    return scales, keeping
