"""Patches of models whose files are cut or named otherwise, against plain single-process PyTorch.

What is expected under the files' names is written by transformers' own ``save_pretrained``.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from merge.build import build
from merge.engine.resources import MergeResources
from merge.settings import MergeSettings
from tests.support.architectures import make_model
from tests.support.train_helpers import make_recipe, make_tokenizer, run_training
from train.chat.prompts import ChatPrompts
from train.data.batches import BatchPlan, order_seed
from train.data.examples import read_examples
from train.recipe import TrainRecipe, load_recipe

pytestmark = pytest.mark.slow

STEPS = 2


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def answer_loss(model: Any, ids: list[int], labels: list[int]) -> Tensor:
    logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(labels[1:]), ignore_index=-100)


def train_plainly(model: Any, samples: list[Any]) -> None:
    """Gradient ascent, one sample at a time."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    plan = BatchPlan(len(samples), 5, order_seed(0, "safety"))
    for step in range(STEPS):
        optimizer.zero_grad()
        for index in plan.batch(step):
            (-answer_loss(model, *samples[index]) / 5).backward()
        optimizer.step()


def put_importance(model: Any, samples: list[Any]) -> None:
    """Put the mean absolute gradient of single samples in the place of every parameter."""
    sums = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    for sample in samples:
        model.zero_grad()
        answer_loss(model, *sample).backward()
        for name, value in model.named_parameters():
            if value.grad is not None:
                sums[name] += value.grad.abs() / len(samples)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(sums[name])


def in_files(model: Any, folder: Path) -> dict[str, Tensor]:
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("kind", ["mixtral", "deepseek_v3", "gemma3", "gpt2"])
def test_patch_merge_and_reload_equal_plain_training(kind: str, tmp_path: Path) -> None:
    """Experts of one file each, a router's buffer, a tower that no text reaches, tied Conv1D."""
    backbone = make_model(kind, tmp_path / "backbone")
    ascent = {"steps": STEPS, "gradient_clipping": 0}
    recipe_file = make_recipe(tmp_path, safety=ascent, importance={"samples": 10})
    done = run_training(recipe_file)
    assert done.returncode == 0, done.stderr
    recipe = load_recipe(recipe_file, [], TrainRecipe)
    samples = ChatPrompts(make_tokenizer()).encode(read_examples(recipe.data), 64)
    trained = load(backbone)
    train_plainly(trained, samples)
    patch, before = tmp_path / "run/safety", load_file(backbone / "model.safetensors")
    after = in_files(trained, tmp_path / "trained")
    delta = load_file(patch / "delta.safetensors")
    importance = load_file(patch / "importance.safetensors")
    put_importance(trained, samples)
    expected = in_files(trained, tmp_path / "importance")
    buffers = {name for name in before if name.endswith("e_score_correction_bias")}
    assert delta.keys() == importance.keys() == before.keys() - buffers
    for name, values in delta.items():
        # The gradient of a key's bias is noise around 0, of which AdamW makes whole steps.
        if values.dim() > 1:
            torch.testing.assert_close(values, after[name] - before[name], rtol=0, atol=2e-5)
        torch.testing.assert_close(importance[name], expected[name], rtol=1e-3, atol=1e-5)

    record = json.loads((patch / "patch.json").read_text())
    (patch / "patch.json").write_text(json.dumps({**record, "role": "over_safety"}))
    alone = MergeSettings(method="over_safety", retention=1, include=("*",))
    build(backbone, patch, patch, tmp_path / "out", alone, MergeResources())
    merged, reference = load(tmp_path / "out"), load(tmp_path / "trained")
    for value, other in zip(merged.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=2e-5 if value.dim() > 1 else 4e-3)
    default = MergeSettings(method="over_safety", retention=1)
    build(backbone, patch, patch, tmp_path / "default", default, MergeResources())
    covered = json.loads((tmp_path / "default/merge.json").read_text())
    assert covered["coverage"]["share"] == 1 and set(covered["coverage"]["untrained"]) == buffers
    assert not any("vision" in name or "norm" in name for name in covered["tensors"])
    moved = [bool(delta[name].abs().max() > 1e-4) for name in covered["tensors"]]
    assert sum(moved) > len(moved) / 2
