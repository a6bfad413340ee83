"""Which merges of a search by margins are asked for answers: one after the other (issue 14).

Margins are calibrated on the backbone's answers; the further a merge is from the backbone, the less
its answers are what its margins predict. So the answers of each merge correct what is predicted of
those near it, and the next one to be asked is the best by what is predicted then.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import expit, logit

from launch.search.choice import Outcome, Trial, badness
from launch.search.settings import SearchSettings

_NEAR = 0.15
"""Merges whose predicted log-odds lie nearer than this answer alike: one of them is enough."""
_REACH = 1.0
"""Over this distance in log-odds what is learned from a merge's answers fades."""
_NOISE = 0.16
"""Variance of answered rates, of some hundred prompts, to that of the corrections."""
_SURE = 1e-3
"""Rates nearer to 0 or 1 count as this far from them, so that their log-odds are finite."""


@dataclass(frozen=True)
class Known:
    """A model whose rates are known twice."""

    estimated: Outcome
    """From margins."""
    answered: Outcome
    """From judged answers."""


def next_finalist(
    candidates: Sequence[Trial], backbone: Known, known: Sequence[Known], search: SearchSettings
) -> Trial | None:
    """The merge whose answers would probably be best, by all answers so far.

    Args:
        candidates: merges and their rates estimated from margins.
        known: the merges that have answered.

    Returns:
        The candidate with its estimated rates; ``None`` where all have answered, or nearly the
        same merges have.
    """
    left = [
        pair for pair in candidates if not _is_near(pair[1], [each.estimated for each in known])
    ]
    if not left:
        return None
    predicted = predict_outcomes([outcome for _, outcome in left], backbone, known)
    best = min(
        range(len(left)), key=lambda place: badness(backbone.answered, predicted[place], search)
    )
    return left[best]


def predict_outcomes(
    estimates: Sequence[Outcome], backbone: Known, known: Sequence[Known]
) -> list[Outcome]:
    """The rates that answers would have, by estimates and by what answers have shown so far.

    The backbone's answered rates and the estimated changes (of harm and refusals in log-odds)
    predict a merge's. How far the answers of other merges lay from that is the mean of a Gaussian
    process over the estimated log-odds, which is zero at the backbone and far from all answers.
    """
    points = np.array([_point(each) for each in (backbone.estimated, *_estimates(known))])
    changes = np.array([_change(each.estimated, backbone.estimated) for each in known])
    shown = np.array([_change(each.answered, backbone.answered) for each in known])
    missed = np.vstack([np.zeros(4), *(shown - changes)])
    weights = np.linalg.solve(_kernel(points, points) + _NOISE * np.eye(len(points)), missed)
    predicted = []
    for estimate in estimates:
        correction = _kernel(np.array([_point(estimate)]), points) @ weights
        change = _change(estimate, backbone.estimated) + correction[0]
        harm, refusal = expit(np.array(_point(backbone.answered)) + change[:2])
        predicted.append(
            replace(
                estimate,
                harmful_rate=float(harm),
                refusal_rate=float(refusal),
                utility=backbone.answered.utility + float(change[2]),
                degenerate_rate=backbone.answered.degenerate_rate + float(change[3]),
            )
        )
    return predicted


def _kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[points of one, points of the other]: 1 where they are the same, 0 far from each other."""
    return np.exp(-0.5 * (cdist(one, other) / _REACH) ** 2)


def _estimates(known: Sequence[Known]) -> list[Outcome]:
    return [each.estimated for each in known]


def _is_near(estimate: Outcome, others: Sequence[Outcome]) -> bool:
    point = np.array(_point(estimate))
    return any(np.linalg.norm(point - _point(other)) < _NEAR for other in others)


def _point(outcome: Outcome) -> tuple[float, float]:
    """Log-odds of the harmful rate and of the refusal rate."""
    rates = np.clip([outcome.harmful_rate, outcome.refusal_rate], _SURE, 1 - _SURE)
    harm, refusal = logit(rates)
    return float(harm), float(refusal)


def _change(outcome: Outcome, backbone: Outcome) -> np.ndarray:
    """[4]: of harm and refusals in log-odds, of utility and degenerate answers as fractions."""
    rates = np.subtract(_point(outcome), _point(backbone))
    beside = (
        outcome.utility - backbone.utility,
        outcome.degenerate_rate - backbone.degenerate_rate,
    )
    return np.array([*rates, *beside])
