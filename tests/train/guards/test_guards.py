"""Guards against closed forms."""

import math

import pytest

from train.guards.guards import Guards, not_finite
from train.job.loop import learning_rate
from train.settings import GuardSettings, SafetyTraining


def first_stop(guards: Guards, losses: list[float], norm: float = 0.0) -> tuple[int, str] | None:
    for number, loss in enumerate(losses):
        reason = guards.reason_to_stop(loss, norm)
        if reason:
            return number, reason
    return None


def test_stops_at_a_fraction_of_the_uniform_guess() -> None:
    guards = Guards(GuardSettings(max_forget_fraction=0.5), vocabulary_size=100)
    assert guards.loss_limit == pytest.approx(math.log(100) / 2)
    assert first_stop(guards, [2.0, 2.3, 2.31]) == (2, "forget loss 2.3100 passed 2.3026")


def test_window_averages_the_last_losses() -> None:
    """Means of 3: 1.33, 1.67, 2.67; a single high loss does not stop."""
    guards = Guards(GuardSettings(max_forget_loss=2.0, window=3), 100)
    stop = first_stop(guards, [0.0, 3.0, 1.0, 1.0, 6.0])
    assert stop is not None and stop[0] == 4


def test_resumed_window_stops_at_the_same_step() -> None:
    settings = GuardSettings(max_forget_loss=2.0, window=3)
    losses = [0.0, 3.0, 1.0, 1.0, 6.0]
    before = Guards(settings, 100)
    assert first_stop(before, losses[:3]) is None
    stop = first_stop(Guards(settings, 100, before.losses), losses[3:])
    assert stop is not None and stop[0] == 1


def test_patch_norm_cap() -> None:
    guards = Guards(GuardSettings(max_patch_norm=1.0), 100)
    assert guards.reason_to_stop(0.1, 1.0) is None
    assert guards.reason_to_stop(0.1, 1.01) == "patch norm 1.0100 passed 1.0000"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_values_end_the_training(value: float) -> None:
    assert not_finite(forget_loss=1.0, gradient_norm=value) == f"gradient norm is {value}"
    assert not_finite(forget_loss=1.0, gradient_norm=2.0) is None


def test_retained_loss_may_rise_by_a_margin() -> None:
    guards = Guards(GuardSettings(max_retained_rise=0.5), 100, retained_loss=1.0)
    assert guards.reason_to_stop(0.1, retained_loss=1.5) is None
    assert guards.reason_to_stop(0.1, retained_loss=1.51) == "retained loss 1.5100 passed 1.5000"


def test_warmup_is_linear_then_constant() -> None:
    settings = SafetyTraining(learning_rate=1.0, warmup_steps=3)
    assert [learning_rate(settings, step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
