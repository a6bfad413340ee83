"""How scales are fitted: by cross-validation over the questions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from launch.search.choice import remaining_share
from launch.search.fit.columns import Column, Grouping
from launch.search.fit.objective import Linearised, Weights, solve
from launch.search.margins.calibration import Calibration

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
"""A scale of 1 is a whole patch: less would let scales leave the range where margins are linear."""
FOLDS = 5
_SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of a fold's prompts in the learning curve."""
_LEAST_SHARE = 0.1
"""Least share of either class in the log-loss: with less, held-out rates of few questions would be
noise."""
_HALVINGS = 5
"""Steps of the bisection for such a share."""


@dataclass(frozen=True)
class Candidate:
    """One grouping of the scales, with all that a fit of it needs."""

    grouping: Grouping
    columns: tuple[Column, ...]
    problem: Linearised
    divergence: np.ndarray
    """[columns, columns], see ``launch.search.fit.objective``."""


@dataclass(frozen=True)
class Validated:
    """How well one way to fit does on questions that it has not seen."""

    candidate: Candidate
    ridge: float
    from_global: bool
    """Whether the ridge pulls to the best global scales; else to 0, the backbone."""
    loss: float
    """Log-loss over held-out questions, in nats."""
    auc: float
    """Probability that a held-out harmful question has a larger margin than a harmless one."""
    margins: np.ndarray
    """[questions], of each when it was held out."""


def validate(candidates: Sequence[Candidate], calibration: Calibration) -> list[Validated]:
    """Cross-validate every grouping with every ridge and centre; the first must be the global one.

    Folds hold both classes in equal shares and are drawn with a fixed seed, so that all ways are
    compared on the same questions.
    """
    validated = [
        _validated(candidate, candidates[0], ridge, from_global, calibration)
        for candidate, ridge, from_global in product(candidates, RIDGES, (False, True))
        if not (from_global and candidate is candidates[0])
    ]
    return sorted(validated, key=lambda each: each.loss)


def learning_curve(
    best: Validated, global_: Candidate, calibration: Calibration
) -> list[dict[str, float]]:
    """How well a fit does by the number of prompts that it sees, at the ridge that was chosen.

    Where the last steps still rise, more validation prompts would repair more.

    Returns:
        "prompts" and "auc", as in ``Validated``, from few prompts to all that cross-validation has.
    """
    steps = []
    for share in _SHARES:
        each = _validated(best.candidate, global_, best.ridge, best.from_global, calibration, share)
        prompts = round(share * (1 - 1 / FOLDS) * len(each.margins))
        steps.append({"prompts": prompts, "auc": each.auc})
    return steps


def even_share(best: Validated, global_: Candidate, calibration: Calibration) -> float:
    """The harmful questions' share in the log-loss with which a fit repairs both faults alike.

    Where one fault is much larger than the other, equal shares lower the one and raise the other.
    So the share is looked for with which as much is left of harm as of refusals, on held-out
    questions and in relation to the backbone.
    """
    problem = best.candidate.problem
    before = calibration.rates(problem.margins, problem.harmful)
    low, high = _LEAST_SHARE, 1 - _LEAST_SHARE
    for _ in range(_HALVINGS):
        share = (low + high) / 2
        how = (best.candidate, global_, best.ridge, best.from_global, calibration)
        after = calibration.rates(_validated(*how, harm=share).margins, problem.harmful)
        harm, refusals = map(remaining_share, before, after)
        # What is left of harm falls with its share, and what is left of refusals rises.
        if harm < refusals:
            high = share
        else:
            low = share
    return (low + high) / 2


def best_global(global_: Candidate, calibration: Calibration, ridge: float) -> np.ndarray:
    """The global scales of a fit with this ridge, [columns of the global grouping]."""
    centre = np.zeros(len(global_.columns))
    return solve(global_.problem, calibration, Weights(ridge, centre), global_.divergence)


def spread(scales: np.ndarray, global_: Candidate, candidate: Candidate) -> np.ndarray:
    """Global scales as those of a finer grouping, [columns of the candidate]."""
    known = {
        (column.role, column.part): scale
        for column, scale in zip(global_.columns, scales, strict=True)
    }
    return np.array([known[column.role, column.part] for column in candidate.columns])


def _validated(
    candidate: Candidate,
    global_: Candidate,
    ridge: float,
    from_global: bool,
    calibration: Calibration,
    share: float = 1.0,
    harm: float = 0.5,
) -> Validated:
    """Hold out every fold in turn, and fit on so much of the others."""
    problem = candidate.problem
    held_out = np.zeros(len(problem.margins))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    for seen, unseen in folds.split(problem.margins, problem.harmful):
        seen = _part(seen, problem.harmful, share)
        centre = np.zeros(len(candidate.columns))
        if from_global:
            part = Candidate("global", global_.columns, global_.problem.take(seen),
                             global_.divergence)  # fmt: skip
            centre = spread(best_global(part, calibration, ridge), part, candidate)
        weights = Weights(ridge, centre, harm)
        scales = solve(problem.take(seen), calibration, weights, candidate.divergence)
        held_out[unseen] = problem.take(unseen).at(scales)
    return Validated(
        candidate=candidate,
        ridge=ridge,
        from_global=from_global,
        loss=problem.loss(held_out, calibration, harm),
        auc=float(roc_auc_score(problem.harmful, held_out)),
        margins=held_out,
    )


def _part(places: np.ndarray, harmful: np.ndarray, share: float) -> np.ndarray:
    """So much of some places, of both classes alike, drawn with a fixed seed."""
    drawn = np.random.default_rng(0).permutation(places)
    classes = [drawn[harmful[drawn] == wanted] for wanted in (True, False)]
    return np.sort(np.concatenate([each[: math.ceil(share * len(each))] for each in classes]))
