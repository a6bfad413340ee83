"""The importance pass on plain models in one process, against autograd on single samples."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from tests.support.architectures import make_model
from train.data.batches import MicroBatch, TokenizedExample
from train.patch.importance import absolute_gradient, measure_importance
from train.zero.ranks import World
from train.zero.resume import TrainingProgress
from train.zero.zero3 import Zero3Model

EXAMPLES: list[TokenizedExample] = [
    ([7, 8, 9, 10, 11], [-100, -100, 9, 10, 11]),
    ([21, 22, 23], [-100, 22, 23]),
    ([31, 32, 33, 34], [-100, -100, 33, 34]),
]


class _Whole:
    """Stands in for the partitioned model: the same calls, on a model in one piece."""

    def __init__(self, model: Any) -> None:
        self.engine = model
        self.transform_gradients = False
        self.sums: dict[str, Tensor] = {}

    def clear_sums(self) -> None:
        self.sums = {name: torch.zeros_like(p) for name, p in self.engine.named_parameters()}

    def clear_gradients(self) -> None:
        self.engine.zero_grad()

    def logits(self, micro: MicroBatch) -> Tensor:
        return self.engine(
            input_ids=micro.input_ids, attention_mask=micro.attention_mask, use_cache=False
        ).logits

    def backward(self, loss: Tensor, last: bool) -> None:
        before = [parameter.grad for parameter in self.engine.parameters()]
        self.engine.zero_grad()
        loss.backward()
        for parameter, earlier in zip(self.engine.parameters(), before, strict=True):
            absolute_gradient(parameter.grad)
            parameter.grad += 0 if earlier is None else earlier

    def add_gradients_to_sums(self) -> None:
        for name, parameter in self.engine.named_parameters():
            self.sums[name] += parameter.grad


def _sums_by_autograd(folder: Path) -> dict[str, Tensor]:
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for ids, labels in EXAMPLES:
        model.zero_grad()
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
        cross_entropy(logits, torch.tensor(labels[1:]), ignore_index=-100).backward()
        for name, parameter in model.named_parameters():
            sums[name] += parameter.grad.abs()
    return sums


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize("kind", ["llama", "opt"])
@pytest.mark.parametrize("recomputes", [False, True])
def test_gradient_checkpointing_holds_in_the_importance_pass(
    kind: str, recomputes: bool, tmp_path: Path
) -> None:
    """Every block runs once more for its backward pass, and nothing in it is dropped out.

    A block of OPT drops out by its own mode, one of Llama has no dropout.
    """
    folder = make_model(kind, tmp_path)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    if recomputes:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    runs: list[str] = []
    for name, module in model.named_modules():
        if name.endswith(("layers.0.self_attn", "layers.1.self_attn")):
            module.register_forward_pre_hook(lambda *_, name=name: runs.append(name))
    whole = _Whole(model)
    world = World(0, 1, 0, 1)
    progress = measure_importance(
        cast(Zero3Model, whole), EXAMPLES, [0, 1, 2], world, TrainingProgress(4), lambda: False
    )
    assert progress.importance_samples == 3
    assert len(runs) == (12 if recomputes else 6)
    for name, expected in _sums_by_autograd(folder).items():
        torch.testing.assert_close(whole.sums[name], expected, rtol=1e-5, atol=1e-8)
    runs.clear()
    model.train()
    model(input_ids=torch.tensor([[7, 8]])).logits.sum().backward()
    assert len(runs) == (4 if recomputes else 2)  # a training goes on as before
