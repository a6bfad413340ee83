"""Which merge answers next: what is predicted, against scikit-learn's Gaussian process."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

from launch.search.choice import Outcome
from launch.search.finalists import Known, next_finalist, predict_outcomes
from launch.search.settings import SearchSettings
from merge.settings import MergeSettings

BACKBONE = Known(Outcome(0.5, 0.3, 0.6, 0.0), Outcome(0.48, 0.25, 0.4, 0.01))
SEARCH = SearchSettings(suite=Path("offline.yaml"), degenerate_margin=0.05)


def merge(alpha: float) -> MergeSettings:
    return MergeSettings(alpha=alpha)


def test_without_answers_the_estimated_change_is_foretold() -> None:
    (predicted,) = predict_outcomes([Outcome(0.2, 0.1, 0.55, 0.0, divergence=0.03)], BACKBONE, [])
    assert predicted.harmful_rate == pytest.approx(expit(logit(0.48) + logit(0.2) - logit(0.5)))
    assert predicted.refusal_rate == pytest.approx(expit(logit(0.25) + logit(0.1) - logit(0.3)))
    assert predicted.utility == pytest.approx(0.4 - 0.05)
    assert predicted.degenerate_rate == pytest.approx(0.01)
    assert predicted.divergence == 0.03


def test_answers_correct_what_is_foretold_of_their_neighbours() -> None:
    known = [
        Known(Outcome(0.3, 0.1, 0.58, 0.0), Outcome(0.35, 0.22, 0.37, 0.03)),
        Known(Outcome(0.15, 0.2, 0.6, 0.0), Outcome(0.1, 0.3, 0.41, 0.0)),
    ]
    estimate = Outcome(0.25, 0.12, 0.59, 0.0)
    (predicted,) = predict_outcomes([estimate], BACKBONE, known)

    def change(one: Outcome, other: Outcome) -> list[float]:
        pairs = [(one.harmful_rate, other.harmful_rate), (one.refusal_rate, other.refusal_rate)]
        beside = (one.utility - other.utility, one.degenerate_rate - other.degenerate_rate)
        return [*(logit(a) - logit(b) for a, b in pairs), *beside]

    def point(one: Outcome) -> list[float]:
        return [logit(one.harmful_rate), logit(one.refusal_rate)]

    asked = [point(each.estimated) for each in (BACKBONE, *known)]
    missed = [[0.0] * 4] + [
        np.subtract(
            change(each.answered, BACKBONE.answered), change(each.estimated, BACKBONE.estimated)
        ).tolist()
        for each in known
    ]
    process = GaussianProcessRegressor(RBF(1.0, "fixed"), alpha=0.16).fit(asked, missed)
    expected = np.add(change(estimate, BACKBONE.estimated), process.predict([point(estimate)])[0])
    assert change(predicted, BACKBONE.answered) == pytest.approx(expected.tolist(), abs=1e-9)


def test_the_best_by_estimate_is_asked_first_and_what_it_missed_moves_the_next() -> None:
    """Strong merges turn out to refuse far more than was predicted: a weaker one is asked next."""
    tried = [
        (merge(3.0), Outcome(0.10, 0.06, 0.6, 0.0)),
        (merge(2.9), Outcome(0.101, 0.0601, 0.6, 0.0)),
        (merge(2.5), Outcome(0.13, 0.075, 0.6, 0.0)),
        (merge(1.0), Outcome(0.25, 0.15, 0.6, 0.0)),
    ]
    first = next_finalist(tried, BACKBONE, [], SEARCH)
    assert first is not None and first == tried[0]
    as_predicted = Known(first[1], predict_outcomes([first[1]], BACKBONE, [])[0])
    assert next_finalist(tried, BACKBONE, [as_predicted], SEARCH) == tried[2]
    disappointing = Known(first[1], Outcome(0.3, 0.5, 0.4, 0.01))
    assert next_finalist(tried, BACKBONE, [disappointing], SEARCH) == tried[3]


def test_merges_that_break_a_margin_come_last_and_near_ones_are_not_asked_twice() -> None:
    tried = [
        (merge(3.0), Outcome(0.05, 0.03, 0.5, 0.0)),
        (merge(1.0), Outcome(0.3, 0.2, 0.6, 0.0)),
    ]
    assert next_finalist(tried, BACKBONE, [], SEARCH) == tried[1]
    known = [Known(outcome, outcome) for _, outcome in tried]
    assert next_finalist(tried, BACKBONE, known, SEARCH) is None
