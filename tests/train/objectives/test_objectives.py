"""Objectives against plain loops over log-probabilities, and their gradients at the backbone."""

import math

import pytest
import torch
from torch import Tensor

from train.objectives.losses import (
    answer_divergences,
    answer_losses,
    ascent,
    npo,
    refusal_transitions,
    top_distributions,
)

ANSWERS = {0: {2: 1, 3: 2, 4: 3, 5: 4}, 1: {5: 7}, 2: {1: 0, 2: 10}}
"""Row -> place -> token: answers of four, one and two tokens."""
VOCABULARY = 11


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random logits, and labels of ``ANSWERS``."""
    labels = torch.full((3, 6), -100)
    for row, answer in ANSWERS.items():
        for place, token in answer.items():
            labels[row, place] = token
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 6, VOCABULARY, generator=generator) * 2, labels


def log_probabilities(logits: Tensor, row: int) -> list[Tensor]:
    """Log-probabilities of the whole vocabulary, at each place that predicts an answer token."""
    return [torch.log_softmax(logits[row, place - 1], 0) for place in ANSWERS[row]]


def plain_losses(logits: Tensor) -> list[float]:
    means = []
    for row, answer in ANSWERS.items():
        chosen = zip(log_probabilities(logits, row), answer.values(), strict=True)
        means.append(-sum(values[token].item() for values, token in chosen) / len(answer))
    return means


def test_answer_loss_is_the_mean_over_each_answer() -> None:
    """Answers of different lengths weigh the same."""
    logits, labels = batch()
    assert answer_losses(logits, labels).tolist() == pytest.approx(plain_losses(logits), rel=1e-6)


def test_weights_fall_along_each_answer() -> None:
    """Each answer begins anew with weight 1; a lone token's loss is as it is."""
    logits, labels = batch()
    expected = []
    for row, answer in ANSWERS.items():
        losses = [
            -values[token].item()
            for values, token in zip(log_probabilities(logits, row), answer.values(), strict=True)
        ]
        weights = [0.5**place for place in range(len(answer))]
        weighted = sum(w * loss for w, loss in zip(weights, losses, strict=True))
        expected.append(weighted / sum(weights))
    assert answer_losses(logits, labels, 0.5).tolist() == pytest.approx(expected, rel=1e-6)


def test_ascent_is_the_negative_loss() -> None:
    losses = torch.tensor([1.0, 2.5])
    assert torch.equal(ascent(losses), -losses)


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_every_token_of_a_harmful_answer_expects_the_refusal(decay: float) -> None:
    """Each sample its own token, whatever the answer says, the end of its turn included."""
    logits, labels = batch()
    expected, first_tokens = [], (9, 0, 4)
    for row, token in enumerate(first_tokens):
        losses = [-values[token].item() for values in log_probabilities(logits, row)]
        weights = [decay**place for place in range(len(losses))]
        weighted = sum(w * loss for w, loss in zip(weights, losses, strict=True))
        expected.append(weighted / sum(weights))
    losses = refusal_transitions(logits, labels, torch.tensor(first_tokens), decay)
    assert losses.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_npo_follows_its_formula_over_whole_answers(beta: float) -> None:
    """(2 / beta) * log(1 + (pi / pi_0) ** beta), the paper's other form, in double precision."""
    logits, labels = batch()
    reference, _ = batch(seed=1)
    expected = [
        2 / beta * math.log1p(math.exp(beta * (before - now) * len(answer)))
        for now, before, answer in zip(
            plain_losses(logits), plain_losses(reference), ANSWERS.values(), strict=True
        )
    ]
    losses = npo(answer_losses(logits, labels), answer_losses(reference, labels), labels, beta)
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)


def test_npo_starts_as_ascent_on_the_whole_answer() -> None:
    """It ascends the answer's log-probability; far from the backbone the gradient dies out."""
    _, labels = batch()
    counts = torch.tensor([4.0, 1.0, 2.0])
    for rise, share in ((0.0, 1.0), (50.0, 0.0)):
        losses = torch.full((3,), 1.0 + rise, requires_grad=True)
        npo(losses, torch.ones(3), labels, beta=1.0).sum().backward()
        assert losses.grad is not None
        assert torch.allclose(losses.grad, -share * counts, atol=1e-6)


def test_divergence_over_all_tokens_is_plain_kl() -> None:
    logits, labels = batch()
    backbone, _ = batch(seed=1)
    expected = []
    for row in ANSWERS:
        pairs = zip(log_probabilities(backbone, row), log_probabilities(logits, row), strict=True)
        places = [torch.sum(p.exp() * (p - q)).item() for p, q in pairs]
        expected.append(sum(places) / len(places))
    divergences = answer_divergences(logits, labels, top_distributions(backbone, labels, 99))
    assert divergences.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kept", [1, 3, VOCABULARY - 1])
def test_divergence_over_the_likeliest_tokens_and_one_rest(kept: int) -> None:
    """A plain loop over ``kept`` + 1 events; never above the whole divergence."""
    logits, labels = batch()
    backbone, _ = batch(seed=1)
    whole = answer_divergences(logits, labels, top_distributions(backbone, labels, VOCABULARY))
    divergences = answer_divergences(logits, labels, top_distributions(backbone, labels, kept))
    for row in ANSWERS:
        total = 0.0
        for p, q in zip(
            log_probabilities(backbone, row), log_probabilities(logits, row), strict=True
        ):
            order = p.argsort(descending=True)
            events = [order[:kept].unsqueeze(1), order[kept:].unsqueeze(0)]
            for ids in [*events[0], *events[1]]:
                before, now = p[ids].exp().sum().item(), q[ids].exp().sum().item()
                total += before * math.log(before / now)
        assert divergences[row].item() == pytest.approx(total / len(ANSWERS[row]), rel=1e-4)
        assert divergences[row] <= whole[row] + 1e-6


@pytest.mark.parametrize("kept", [4, VOCABULARY])
def test_divergence_and_its_gradient_vanish_at_the_backbone(kept: int) -> None:
    logits, labels = batch()
    logits.requires_grad_()
    reference = top_distributions(logits.detach(), labels, kept)
    divergences = answer_divergences(logits, labels, reference)
    divergences.sum().backward()
    assert logits.grad is not None
    assert divergences.abs().max() < 1e-6 and logits.grad.abs().max() < 1e-6
