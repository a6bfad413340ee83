"""Guards and objectives against closed forms and plain loops."""

import math

import pytest
import torch

from merge.errors import UserError
from train.guards import Guards, require_finite
from train.loop import learning_rate
from train.objectives import answer_losses, ascent, descent
from train.recipe import GuardSettings, SafetyTraining


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
    with pytest.raises(UserError, match=r"at step 3: gradient norm is .* lower safety"):
        require_finite("safety", 3, forget_loss=1.0, gradient_norm=value)


def test_answer_loss_is_the_mean_over_each_answer() -> None:
    """A plain loop over log-probabilities; answers of different lengths weigh the same."""
    torch.manual_seed(0)
    logits = torch.randn(3, 6, 11)
    labels = torch.full((3, 6), -100)
    labels[0, 2:6] = torch.tensor([1, 2, 3, 4])
    labels[1, 5] = 7
    labels[2, 1:3] = torch.tensor([0, 10])
    expected = []
    for row in range(3):
        chosen = [
            -torch.log_softmax(logits[row, place - 1], 0)[labels[row, place]].item()
            for place in range(6)
            if labels[row, place] != -100
        ]
        expected.append(sum(chosen) / len(chosen))
    assert answer_losses(logits, labels).tolist() == pytest.approx(expected, rel=1e-6)


def test_ascent_and_descent_are_opposite() -> None:
    losses = torch.tensor([1.0, 2.5])
    assert torch.equal(ascent(losses), -descent(losses))
    assert torch.equal(descent(losses), losses)


def test_warmup_is_linear_then_constant() -> None:
    settings = SafetyTraining(learning_rate=1.0, warmup_steps=3)
    assert [learning_rate(settings, step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
