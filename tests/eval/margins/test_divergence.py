"""The divergence of a changed model from the original, against plain torch."""

import math

import pytest
import torch
from transformers import PreTrainedModel

from eval.margins.divergence import Reference
from launch.search.choice import Outcome, violation
from launch.search.settings import SearchSettings
from tests.support.eval_models import make_model

EXAMPLES = [([3, 9, 4, 6, 8], [-100, -100, 4, 6, 8]), ([8, 2, 6, 5], [-100, 2, 6, 5])]


@torch.no_grad()
def _log_probabilities(model: PreTrainedModel) -> torch.Tensor:
    """fp64 [answer tokens, vocabulary], one example at a time."""
    parts = []
    for ids, labels in EXAMPLES:
        logits = model(torch.tensor([ids])).logits[0].double()
        parts += [logits[n - 1] for n, label in enumerate(labels) if label != -100]
    return torch.stack(parts).log_softmax(-1)


def test_divergence_is_the_mean_over_all_answer_tokens() -> None:
    model, other = make_model(), make_model(seed=3)
    before, now = _log_probabilities(model), _log_probabilities(other)
    expected = (before.exp() * (before - now)).sum(-1).mean().item()
    reference = Reference.of(model, EXAMPLES)
    assert reference.divergence(other) == pytest.approx(expected, rel=1e-2)
    assert reference.divergence(model) < 1e-4


def test_a_model_without_numbers_is_no_copy_of_the_original() -> None:
    """A divergence of 0, or one that no bound excludes, would let a search choose that merge."""
    reference = Reference.of(make_model(), EXAMPLES)
    broken = make_model()
    broken.lm_head.weight.data[5] = math.nan
    assert reference.divergence(broken) == math.inf
    settings = SearchSettings.model_validate({"suite": "s.yaml"})
    rates = Outcome(0.5, 0.5, 0.5, 0.0)
    merged = Outcome(0.5, 0.5, 0.5, 0.0, divergence=reference.divergence(broken))
    assert violation(rates, merged, settings) > 0


def test_tokens_that_no_answer_may_have_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that fill up their vocabulary give the rest of it the logit -inf."""
    model = make_model()
    plain = type(model).forward

    def filled_up(*args, **options):
        output = plain(*args, **options)
        output.logits[..., -1] = -math.inf
        return output

    monkeypatch.setattr(type(model), "forward", filled_up)
    assert Reference.of(model, EXAMPLES).divergence(model) < 1e-4
