"""The walk to a fit's merges, on a model whose margins are truly linear in its scales."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from launch.search.choice import Outcome, violation, worst_remaining_ratio
from launch.search.fit.columns import Column
from launch.search.fit.cross_validation import Candidate, Validated
from launch.search.fit.objective import Linearised
from launch.search.fit.walk import Walk
from launch.search.margins.calibration import Calibration
from launch.search.margins.margin_model import Measured
from launch.search.settings import SearchSettings
from merge.settings import MergeSettings

COLUMNS = (Column("*", "safety", "all"), Column("*", "over_safety", "all"))
EVEN = Calibration(slope=1.0, intercept=0.0, auc=1.0, answers=60)
HESSIAN = np.diag([0.2, 0.1])
RIDGE = 1e-3
LOST_PER_LENGTH = 0.1


def scales_of(settings: MergeSettings) -> np.ndarray:
    return np.array([settings.alpha, settings.beta])


class LinearModel:
    """Margins linear in alpha and beta, divergence quadratic, utility lost with their length."""

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self.harmful = np.arange(60) % 2 == 0
        self.derivatives = draw.normal(size=(60, 2)) + np.where(self.harmful, 1.0, -1.0)[:, None]
        self.start = draw.normal(size=60)
        self.calibration = EVEN
        self.backbone = self.measured(np.zeros(2))
        self.before = self.estimate(self.backbone)

    def measured(self, scales: np.ndarray) -> Measured:
        lost = LOST_PER_LENGTH * float(np.linalg.norm(scales))
        return Measured(
            margins=self.start + self.derivatives @ scales,
            leads=np.array([0.9 - lost]),
            divergence=0.5 * float(scales @ HESSIAN @ scales),
        )

    def estimate(self, measured: Measured) -> Outcome:
        refused = expit(measured.margins)
        return Outcome(
            harmful_rate=1 - float(refused[self.harmful].mean()),
            refusal_rate=float(refused[~self.harmful].mean()),
            utility=float(measured.leads.mean()),
            degenerate_rate=0.0,
            divergence=measured.divergence,
        )


def make_walk(model: LinearModel, **search: Any) -> Walk:
    forms = np.full(60, "order")
    problem = Linearised(np.zeros(2), model.start, model.derivatives, model.harmful, forms)
    candidate = Candidate("global", COLUMNS, problem, HESSIAN)
    kept = SimpleNamespace(
        chosen=np.arange(60),
        right=np.arange(0),
        merge=lambda settings: model.measured(scales_of(settings)),
    )
    settings = {"suite": "s.yaml", "max_divergence": 9.0, "fit_rounds": 1, **search}
    return Walk(
        model=model,  # type: ignore[arg-type]
        base=MergeSettings(method="dense"),
        search=SearchSettings(**settings),
        best=Validated(candidate, RIDGE, False, 0.0, 1.0, model.start),
        centre=np.zeros(2),
        harm=0.5,
        kept=kept,  # type: ignore[arg-type]
    )


def test_the_walk_ends_at_the_least_of_the_true_objective() -> None:
    """Against a minimiser that asks the model itself, and knows no derivative."""
    model = LinearModel()

    def objective(scales: np.ndarray) -> float:
        odds = model.measured(scales).margins
        wrong = -np.log(expit(odds[model.harmful])), -np.log(expit(-odds[~model.harmful]))
        loss = (wrong[0].mean() + wrong[1].mean()) / 2
        return loss + RIDGE * scales @ scales + scales @ HESSIAN @ scales / 2

    least = minimize(objective, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-7})
    assert make_walk(model).run() == pytest.approx(least.x, abs=1e-3)


class BrittleModel(LinearModel):
    """Diverges with the fourth power of the length too, which no linearisation foretells."""

    def measured(self, scales: np.ndarray) -> Measured:
        linear = super().measured(scales)
        return replace(linear, divergence=linear.divergence + 500 * float(scales @ scales) ** 2)


def test_a_step_that_goes_much_too_far_is_shortened_until_it_helps() -> None:
    """An eighth of it is still worse than the backbone, and a sixteenth is better."""
    model = BrittleModel()
    walk = make_walk(model)
    target = make_walk(LinearModel()).run()
    assert walk.run() == pytest.approx(target / 16)

    def objective(share: float) -> float:
        return walk._objective(share * target, model.measured(share * target))

    assert objective(1 / 16) < objective(0) < objective(1 / 8) < objective(1 / 4)


def test_the_strongest_merge_within_the_margins_is_found() -> None:
    """A utility margin of 0.02 holds up to a length of 0.2: some merge comes near to it, to a
    sixteenth of the way."""
    model = LinearModel()
    walk = make_walk(model, utility_margin=0.02)
    whole = float(np.linalg.norm(walk.run()))
    assert whole > 0.4  # the fit itself is outside
    lengths = [
        float(np.linalg.norm(scales_of(settings)))
        for settings, outcome in walk.tried
        if violation(model.before, outcome, walk.search) == 0
    ]
    assert 0.2 - whole / 16 < max(lengths) <= 0.02 / LOST_PER_LENGTH + 1e-9


def test_a_fit_within_the_margins_is_not_weakened() -> None:
    """The whole step and the half, which is worse; the whole again, and no bisection; then the
    other shares of the harmful questions."""
    walk = make_walk(LinearModel(), utility_margin=0.9)
    whole = float(np.linalg.norm(walk.run()))
    lengths = [float(np.linalg.norm(scales_of(settings))) for settings, _ in walk.tried]
    assert lengths[:3] == pytest.approx([whole, whole / 2, whole])
    assert len(lengths) == 3 + 4


def test_where_no_merge_keeps_the_margins_none_is_the_backbone() -> None:
    walk = make_walk(LinearModel(), utility_margin=0.0)
    whole = float(np.linalg.norm(walk.run()))
    lengths = [float(np.linalg.norm(scales_of(settings))) for settings, _ in walk.tried]
    assert all(violation(walk.model.before, outcome, walk.search) > 0 for _, outcome in walk.tried)
    assert min(lengths) > whole / 100


def test_a_careful_fit_is_tried_beside_a_bold_one_that_breaks_a_margin() -> None:
    """It points elsewhere, and what either leaves within the margins are candidates."""
    model = LinearModel()
    walk = make_walk(model, utility_margin=0.02)
    walk.run()
    directions = {
        tuple(np.round(scales / np.linalg.norm(scales), 6))
        for scales in (scales_of(settings) for settings, _ in walk.tried[2:-4])
    }
    assert len(directions) == 2, "two bisections, from two solutions"
    best = min(
        worst_remaining_ratio(model.before, outcome)
        for _, outcome in walk.tried[2:-4]
        if violation(model.before, outcome, walk.search) == 0
    )
    assert best < 1
