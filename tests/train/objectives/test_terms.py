"""The terms of an objective, and what else knows of them."""

from typing import Any, cast, get_args

import pytest
import torch

from train.data.batches import BatchPlan, TokenizedExample
from train.data.decoupled_refusals import DecoupledRefusals
from train.objectives import terms
from train.objectives.terms import build_terms
from train.objectives.training_data import TrainingData
from train.settings import OBJECTIVES, ObjectiveName, SafetyTraining
from train.zero.ranks import World


@pytest.mark.parametrize("objective", get_args(ObjectiveName))
def test_the_table_of_objectives_knows_how_many_samples_a_step_has(
    objective: ObjectiveName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``launch plan`` counts the tokens of a training by it."""
    monkeypatch.setattr(terms, "backbone_losses", lambda *_: torch.zeros(12))
    monkeypatch.setattr(terms, "backbone_distributions", lambda *_: {})
    pairs: list[TokenizedExample] = [([1, 2], [-100, 2])] * 12
    data = TrainingData(
        forget=pairs,
        mismatched=pairs,
        harmless=pairs,
        decoupled=DecoupledRefusals(pairs[:6], [2] * 6, pairs[6:]),
    )
    settings = SafetyTraining(objective=objective, batch_size=4)
    plan, world = BatchPlan(12, 4, 0), World(0, 1, 0, 1)
    built = build_terms(settings, data, plan, 3, cast(Any, None), world)
    for step in range(3):
        samples = sum(len(term.batch(step)) for term in built)
        assert samples == 4 * OBJECTIVES[objective].samples_a_pair
