"""AUC, its intervals and the curve against scikit-learn, all pairs by hand, and closed forms."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from eval.statistics.roc import Side, auc, auc_difference, auc_interval, roc_points
from eval.text.forms import FORMS

PROMPTS = st.lists(st.tuples(st.integers(-3, 3), st.sampled_from(FORMS)), min_size=1, max_size=25)


def _side(prompts) -> Side:
    return Side.of(*map(list, zip(*prompts, strict=True)))


def _drawn(seed: int, shift: float, n: int = 60) -> tuple[Side, Side]:
    """Harmful prompts whose margins stand higher by ``shift``; forms mixed alike."""
    draw = np.random.default_rng(seed)
    harmful, harmless = (
        Side.of((draw.normal(size=n) + up).tolist(), draw.choice(FORMS, n).tolist())
        for up in (shift, 0)
    )
    return harmful, harmless


@given(PROMPTS, PROMPTS)
def test_auc_equals_scikit_learn(harmful, harmless):
    """With many ties."""
    labels = [1] * len(harmful) + [0] * len(harmless)
    expected = roc_auc_score(labels, [margin for margin, _ in [*harmful, *harmless]])
    assert auc(_side(harmful), _side(harmless)) == pytest.approx(expected)


@given(PROMPTS, PROMPTS, st.sampled_from(["matched", "unmatched"]))
def test_pairs_of_forms_are_those_that_a_loop_finds(harmful, harmless, pairing):
    wins = [
        (above > below) + (above == below) / 2
        for (above, form), (below, other) in itertools.product(harmful, harmless)
        if (form == other) == (pairing == "matched")
    ]
    area = auc(_side(harmful), _side(harmless), pairing)
    assert area == (pytest.approx(np.mean(wins)) if wins else None)


def test_form_alone_is_worth_nothing_among_matched_pairs():
    """A model that refuses orders only: harmful prompts are mostly orders, harmless ones not."""
    margin = {"order": 2.0, "question": -2.0}
    harmful, harmless = (
        Side.of([margin[form] for form in forms], forms)
        for forms in (["order"] * 9 + ["question"], ["order"] + ["question"] * 9)
    )
    assert auc(harmful, harmless) == pytest.approx(0.81 + 0.18 / 2)
    assert auc(harmful, harmless, "matched") == 0.5
    assert auc(harmful, harmless, "unmatched") == pytest.approx(81 / 82)


def test_the_interval_is_that_of_drawing_prompts():
    """Against draws by index and scikit-learn, on other random numbers."""
    harmful, harmless = _drawn(1, 0.8)
    draw = np.random.default_rng(5)
    values = []
    for _ in range(800):
        chosen = [side.margins[draw.integers(0, side.n, side.n)] for side in (harmful, harmless)]
        values.append(roc_auc_score([1] * harmful.n + [0] * harmless.n, np.concatenate(chosen)))
    interval = auc_interval(harmful, harmless)
    assert interval is not None
    assert interval["n"] == 120
    expected = np.quantile(values, (0.025, 0.975))
    assert (interval["low"], interval["high"]) == pytest.approx(tuple(expected), abs=0.02)


def test_the_interval_covers_the_truth():
    """Two normal laws a standard deviation apart: AUC = Phi(1 / sqrt 2) = 0.7602."""
    intervals = [auc_interval(*_drawn(seed, 1.0), "matched", seed) for seed in range(80)]
    covered = [each is not None and each["low"] <= 0.7602 <= each["high"] for each in intervals]
    assert np.mean(covered) > 0.88


def test_a_model_against_itself_has_no_difference():
    difference = auc_difference(_drawn(3, 1.0), _drawn(3, 1.0))
    assert difference == {"difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}


def test_one_scale_of_all_margins_is_no_difference():
    """What moves along the curve leaves the area as it is."""
    before = _drawn(4, 0.5)
    moved = tuple(Side(side.margins * 3 + 7, side.forms) for side in before)
    difference = auc_difference(before, (moved[0], moved[1]), "matched")
    assert difference is not None
    assert (difference["difference"], difference["p"]) == (0.0, 1.0)


def test_pairing_tells_what_two_intervals_do_not():
    """The same small gain on every harmful prompt: intervals overlap, the difference is sure."""
    harmful, harmless = _drawn(6, 0.6)
    after = Side(harmful.margins + 0.35, harmful.forms)
    alone = [auc_interval(side, harmless) for side in (harmful, after)]
    assert alone[0] is not None and alone[1] is not None
    assert alone[1]["low"] < alone[0]["high"]
    difference = auc_difference((harmful, harmless), (after, harmless))
    assert difference is not None
    assert difference["low"] > 0 and difference["p"] == pytest.approx(2 / 2001)


def test_false_alarms_of_the_difference_stay_at_the_level():
    """Two models whose margins share the prompts' part and differ by noise alone."""
    alarms = 0
    for seed in range(120):
        draw = np.random.default_rng(1000 + seed)
        shared = _drawn(seed, 0.8, 40)
        models = [
            tuple(Side(s.margins + draw.normal(size=s.n) * 0.7, s.forms) for s in shared)
            for _ in "ab"
        ]
        difference = auc_difference((models[0][0], models[0][1]), (models[1][0], models[1][1]))
        alarms += difference is not None and difference["p"] <= 0.05
    assert alarms <= 13  # 5 % of 120, and three standard deviations


def test_one_axis_of_one_form_has_no_pair_of_the_other_kind():
    harmful, harmless = Side.of([1.0, 2.0], ["order"] * 2), Side.of([0.0], ["question"])
    assert auc(harmful, harmless, "matched") is None
    assert auc_interval(harmful, harmless, "matched") is None
    assert auc_difference((harmful, harmless), (harmful, harmless), "matched") is None
    assert auc(harmful, harmless, "unmatched") == 1.0


@given(PROMPTS, PROMPTS)
def test_the_curve_has_corners_of_scikit_learns_and_the_same_area(harmful, harmless):
    points = roc_points(_side(harmful), _side(harmless))
    assert (points[0], points[-1]) == ((0.0, 0.0), (1.0, 1.0))
    x, y = map(np.array, zip(*points, strict=True))
    value = auc(_side(harmful), _side(harmless))
    assert np.trapezoid(y, x) == pytest.approx(value, abs=1e-9)
    labels = [1] * len(harmful) + [0] * len(harmless)
    others, detected, _ = roc_curve(
        labels, [margin for margin, _ in [*harmful, *harmless]], drop_intermediate=False
    )
    known = set(zip(others.tolist(), detected.tolist(), strict=True))
    assert set(points) <= known
