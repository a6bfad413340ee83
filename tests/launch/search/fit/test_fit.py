"""The arithmetic of fitted scales, against scipy, scikit-learn and plain loops."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq, minimize
from scipy.special import expit

from launch.search.fit.columns import Column, columns_of, sum_columns, unit_of, with_scales
from launch.search.fit.cross_validation import (
    Candidate,
    Validated,
    even_share,
    learning_curve,
    validate,
)
from launch.search.fit.kept import spaced_places
from launch.search.fit.objective import Leads, Linearised, Weights, solve
from launch.search.margins.calibration import Calibration, calibrate
from merge.settings import SETS, MergeSettings

NAMES = [
    f"model.layers.{layer}.{module}.weight"
    for layer in range(3)
    for module in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj")
]
SURE = Calibration(slope=1.5, intercept=0.4, auc=1.0, answers=9)


def make_problem(questions: int = 40, columns: int = 3, seed: int = 0) -> Linearised:
    draw = np.random.default_rng(seed)
    harmful = np.arange(questions) % 3 == 0
    derivatives = draw.normal(size=(questions, columns)) + harmful[:, None] * [1, 0, -0.5]
    point, margins = draw.normal(size=columns), draw.normal(size=questions)
    return Linearised(point, margins, derivatives, harmful, np.full(questions, "order"))


def test_calibration_follows_the_judged_answers() -> None:
    """Against the chances that they were drawn with, and the share of ordered pairs."""
    draw = np.random.default_rng(1)
    margins = draw.normal(size=4000) * 3
    refused = draw.random(4000) < expit(0.8 * margins - 1)
    calibration = calibrate(margins.tolist(), refused.tolist())
    assert calibration is not None
    asked = np.array([-3.0, 0.0, 2.0])
    assert calibration.refusal_probability(asked) == pytest.approx(expit(0.8 * asked - 1), abs=0.03)
    pairs = margins[refused][:, None] > margins[~refused][None, :]
    assert calibration.auc == pytest.approx(pairs.mean(), abs=1e-9)


def test_nothing_is_calibrated_without_both_classes() -> None:
    assert calibrate([1.0, 2.0], [True, True]) is None
    assert calibrate([1.0, 1.0], [True, False]) is None


def test_margins_that_point_the_wrong_way_do_not_hold() -> None:
    calibration = calibrate([3.0, 2.0, -1.0, -2.0], [False, False, True, True])
    assert calibration is not None and not calibration.holds


@pytest.mark.parametrize("method", ["difference", "intersection", "dense", "by_set"])
@pytest.mark.parametrize("grouping", ["global", "layers", "modules", "tensors"])
def test_columns_and_merge_agree(grouping, method) -> None:
    """A change of margin by the columns is that by the scales which the merge's settings hold."""
    draw = np.random.default_rng(2)
    derivatives = draw.normal(size=(4, len(NAMES), 2, 3))
    columns = columns_of(NAMES, grouping, method)
    scales = draw.normal(size=len(columns))
    summed = sum_columns(derivatives, NAMES, columns, grouping, method) @ scales
    settings = with_scales(
        MergeSettings(method=method, top_safety=0.3), dict(zip(columns, scales, strict=True))
    )
    taken = {"difference": [0], "intersection": [1], "dense": [0, 1, 2]}.get(method)
    by_hand = np.zeros(4)
    for tensor, name in enumerate(NAMES):
        for patch, by_set in enumerate(settings.set_scales_of(name)):
            for number in range(len(SETS)):
                if taken is None:
                    by_hand += by_set[number] * derivatives[:, tensor, patch, number]
                elif number in taken:
                    by_hand += by_set[0] * derivatives[:, tensor, patch, number]
    assert summed == pytest.approx(by_hand)
    assert settings.top_safety == 0.3


def test_units_are_whole_blocks_and_their_parts() -> None:
    assert unit_of(NAMES[0], "layers") == "model.layers.0.*"
    assert unit_of(NAMES[0], "modules") == "model.layers.0.self_attn.*"
    # Not one of block 1 and block 10 alike.
    assert unit_of("h.10.attn.c_attn.weight", "layers") == "h.10.*"
    assert len(columns_of(NAMES, "modules", "dense")) == 3 * 2 * 2


def test_a_scale_that_is_not_fitted_is_nothing() -> None:
    settings = with_scales(
        MergeSettings(method="by_set", alpha=2, beta=2, beta_rest=3),
        {Column("model.layers.1.*", "safety", "shared"): -0.5},
    )
    assert settings.set_scales_of(NAMES[0]) == ((0, 0, 0), (0, 0, 0))
    assert settings.set_scales_of(NAMES[3]) == ((0, -0.5, 0), (0, 0, 0))


@pytest.mark.parametrize("harm", [0.5, 0.2])
def test_the_solution_is_the_least_of_the_objective(harm: float) -> None:
    """Against a minimiser that knows no gradient, on the objective as its docstring writes it."""
    draw = np.random.default_rng(7)
    leads = Leads(draw.normal(size=9) + 1, draw.normal(size=(9, 3)) - 1)
    problem = replace(make_problem(), leads=leads)
    divergence = np.diag([0.3, 0.0, 0.1])
    centre = np.array([0.2, -0.1, 0.0])

    def objective(scales: np.ndarray) -> float:
        odds = SURE.slope * problem.at(scales) + SURE.intercept
        wrong = -np.log(expit(odds[problem.harmful])), -np.log(1 - expit(odds[~problem.harmful]))
        loss = harm * wrong[0].mean() + (1 - harm) * wrong[1].mean()
        ahead = leads.values + leads.derivatives @ (scales - problem.point)
        kept = -np.log(expit(ahead)).mean() + scales @ divergence @ scales / 2
        return loss + 0.01 * ((scales - centre) ** 2).sum() + 1.5 * kept

    solution = solve(problem, SURE, Weights(0.01, centre, harm, keeping=1.5), divergence)
    other = minimize(
        objective, centre, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10}
    )
    assert solution == pytest.approx(other.x, abs=1e-3)
    assert objective(solution) <= other.fun + 1e-9


def test_log_loss_weighs_both_classes_alike() -> None:
    margins, harmful = np.array([2.0, -1.0, 0.5]), np.array([True, False, False])
    odds = SURE.slope * margins + SURE.intercept
    expected = 0.5 * np.log1p(np.exp(-odds[0])) + 0.25 * np.log1p(np.exp(odds[1:])).sum()
    forms = np.array(["order", "order", "question"])
    problem = Linearised(np.zeros(0), margins, np.zeros((3, 0)), harmful, forms)
    assert problem.loss(margins, SURE) == pytest.approx(expected)


def test_the_form_alone_is_worth_nothing() -> None:
    """Harmful prompts that are mostly orders: a scale that refuses every order and answers every
    question would pay, if the forms did not weigh alike."""
    harmful = np.arange(40) < 20
    order = np.where(harmful, np.arange(40) % 10 > 0, np.arange(40) % 10 == 0)
    forms = np.where(order, "order", "question")
    by_form = np.where(order, 1.0, -1.0)[:, None]
    problem = Linearised(np.zeros(1), np.zeros(40), by_form, harmful, forms)
    even = Calibration(slope=1.0, intercept=0.0, auc=1.0, answers=40)
    weights, nothing = Weights(1e-4, np.zeros(1)), np.zeros((1, 1))
    assert abs(solve(problem, even, weights, nothing)[0]) < 1e-3
    unknown = Linearised(np.zeros(1), np.zeros(40), by_form, harmful, np.full(40, "order"))
    assert solve(unknown, even, weights, nothing)[0] > 1


def make_candidate(grouping, names: int, derivatives: np.ndarray, base: Linearised) -> Candidate:
    columns = tuple(Column(f"t{number}", "safety", "all") for number in range(names))
    problem = Linearised(np.zeros(names), base.margins, derivatives, base.harmful, base.forms)
    return Candidate(grouping, columns, problem, np.zeros((names, names)))


def test_cross_validation_tells_a_repair_from_noise() -> None:
    """Many columns of noise are not chosen beside one that moves the classes apart; alone they
    give no held-out AUC above chance."""
    draw = np.random.default_rng(3)
    harmful = np.arange(80) % 2 == 0
    forms = np.full(80, "order")
    base = Linearised(np.zeros(1), draw.normal(size=80), np.zeros((80, 1)), harmful, forms)
    apart = np.where(harmful, 1.0, -1.0)[:, None] + 0.3 * draw.normal(size=(80, 1))
    noise = draw.normal(size=(80, 60))
    good = make_candidate("global", 1, apart, base)
    finer = make_candidate("tensors", 60, noise, base)
    known = Column("t0", "safety", "all")
    finer = Candidate(finer.grouping, (known,) * 60, finer.problem, finer.divergence)
    assert validate([good, finer], SURE)[0].candidate is good
    alone = validate([make_candidate("global", 60, noise, base)], SURE)[0]
    assert alone.auc < 0.65 < 0.9 < validate([good], SURE)[0].auc


def test_more_prompts_teach_more_where_there_is_something_to_learn() -> None:
    """Thirty columns that all help a little: few prompts cannot weigh them. All prompts give the
    figure of the cross-validation itself."""
    draw = np.random.default_rng(4)
    harmful = np.arange(300) % 2 == 0
    base = Linearised(
        np.zeros(1), draw.normal(size=300), np.zeros((300, 1)), harmful, np.full(300, "order")
    )
    columns = np.where(harmful, 0.25, -0.25)[:, None] + draw.normal(size=(300, 30))
    candidate = make_candidate("global", 30, columns, base)
    best = validate([candidate], SURE)[0]
    curve = learning_curve(best, candidate, SURE)
    assert [step["prompts"] for step in curve] == [60, 120, 180, 240]
    assert curve[-1]["auc"] == best.auc > curve[0]["auc"] + 0.02


def test_both_faults_shrink_alike_where_one_is_larger() -> None:
    """Two columns, one of which moves all margins: against root finding over scipy's minimum.

    Harm is 4 times as frequent as refusals here. With equal weights, refusals would rise.
    """
    draw = np.random.default_rng(3)
    harmful = np.arange(2000) % 2 == 0
    margins = draw.normal(size=2000) + np.where(harmful, 0.0, -2.5)
    telling = draw.normal(size=2000) + np.where(harmful, 0.6, -0.6)
    columns = np.stack([np.ones(2000), telling], axis=1)
    problem = Linearised(np.zeros(2), margins, columns, harmful, np.full(2000, "order"))
    plain = Calibration(slope=1.0, intercept=0.0, auc=1.0, answers=9)

    def left(harm: float) -> tuple[float, float]:
        def loss(scales: np.ndarray) -> float:
            odds = margins + columns @ scales
            parts = np.log1p(np.exp(-odds[harmful])), np.log1p(np.exp(odds[~harmful]))
            return harm * parts[0].mean() + (1 - harm) * parts[1].mean() + 1e-4 * scales @ scales

        refused = expit(margins + columns @ minimize(loss, np.zeros(2)).x)
        before = expit(margins)
        return (
            (1 - refused[harmful]).mean() / (1 - before[harmful]).mean(),
            refused[~harmful].mean() / before[~harmful].mean(),
        )

    assert left(0.5)[0] < 0.8 and left(0.5)[1] > 1.2
    even = brentq(lambda harm: left(harm)[0] - left(harm)[1], 0.05, 0.95)
    two = (Column("*", "safety", "all"), Column("*", "over_safety", "all"))
    candidate = Candidate("global", two, problem, np.zeros((2, 2)))
    best = Validated(candidate, 1e-4, False, 0.0, 1.0, margins)
    assert even_share(best, candidate, plain) == pytest.approx(even, abs=1 / 32)


def test_spaced_takes_all_of_few_and_every_part_of_many() -> None:
    assert spaced_places(3, 9).tolist() == [0, 1, 2]
    assert spaced_places(10, 4).tolist() == [0, 2, 5, 7]
