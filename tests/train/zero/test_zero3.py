"""The patch that several ZeRO-3 processes write against plain single-process PyTorch."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.nn.functional import cross_entropy

from tests.support.train_helpers import (
    ROOT,
    load_backbone,
    make_recipe,
    make_tokenizer,
    run_training,
)
from train.chat.prompts import ChatPrompts
from train.data.batches import BatchPlan, order_seed
from train.data.examples import read_examples
from train.patch.importance import choose_samples
from train.recipe import TrainRecipe, load_recipe
from train.settings import ImportanceSettings

pytestmark = pytest.mark.slow

DELTA_TOLERANCE = 1e-6
"""Tolerance beside the learning rate 1e-3 per step; the deltas are about 4e-3."""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_recipe(tmp_path_factory.mktemp("patch"))


VARIANTS: dict[str, tuple[int, str]] = {
    "2-processes": (2, "seed=0"),
    "1-process": (1, "seed=0"),
    "3-processes": (3, "seed=0"),
    "checkpointing": (2, "safety.gradient_checkpointing=true"),
    "zero3_gpu": (2, f"safety.ds_config={ROOT / 'ds_configs/zero3_gpu.json'}"),
    "zero3_offload": (2, f"safety.ds_config={ROOT / 'ds_configs/zero3_offload.json'}"),
}
"""Processes, and what else differs; 5 samples a step divide by none but 1."""


@pytest.fixture(scope="module")
def derive(recipe_file: Path) -> Callable[[str], Path]:
    """The safety patch of a variant; each is derived once."""

    @cache
    def derive_once(variant: str) -> Path:
        processes, override = VARIANTS[variant]
        output = recipe_file.parent / variant
        done = run_training(recipe_file, f"output={output}", override, processes=processes)
        assert done.returncode == 0, done.stderr
        return output / "safety"

    return derive_once


@pytest.fixture(params=VARIANTS)
def patch(derive: Callable[[str], Path], request: pytest.FixtureRequest) -> Path:
    if request.param == "zero3_offload" and shutil.which("c++") is None:
        pytest.skip("DeepSpeed compiles its CPU Adam at the first use, and there is no c++ here")
    return derive(request.param)


def sample_loss(model: torch.nn.Module, ids: list[int], labels: list[int]) -> torch.Tensor:
    """Mean cross-entropy over the labelled tokens of one unpadded sample."""
    logits = model(input_ids=torch.tensor([ids])).logits[0]
    places = [place for place, label in enumerate(labels) if label != -100]
    targets = torch.tensor([labels[place] for place in places])
    return cross_entropy(logits[[place - 1 for place in places]], targets)


def tokenized(recipe: TrainRecipe) -> list[tuple[list[int], list[int]]]:
    return ChatPrompts(make_tokenizer()).encode(read_examples(recipe.data), 512)


@pytest.fixture(scope="module")
def plain_training(recipe_file: Path) -> torch.nn.Module:
    """Gradient ascent in one process, one sample at a time, by torch's own AdamW and clipping."""
    recipe = load_recipe(recipe_file, [], TrainRecipe)
    model = load_backbone(recipe_file.parent / "backbone")
    samples = tokenized(recipe)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    plan = BatchPlan(len(samples), 5, order_seed(0, "safety"))
    for step in range(4):
        optimizer.zero_grad()
        for index in plan.batch(step):
            (-sample_loss(model, *samples[index]) / 5).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


def test_delta_equals_plain_training(
    patch: Path, recipe_file: Path, plain_training: torch.nn.Module
) -> None:
    delta = load_file(patch / "delta.safetensors")
    backbone = dict(load_backbone(recipe_file.parent / "backbone").named_parameters())
    assert delta.keys() == backbone.keys()
    for name, parameter in plain_training.named_parameters():
        expected = (parameter - backbone[name]).detach().numpy()
        assert delta[name].dtype == np.float32
        np.testing.assert_allclose(delta[name], expected, rtol=0, atol=DELTA_TOLERANCE)
        assert np.abs(delta[name]).max() > 1e-3 or name.endswith("embed_tokens.weight")


def test_importance_equals_autograd_on_single_samples(patch: Path, recipe_file: Path) -> None:
    """Each of 7 samples counts exactly once, also where 2 or 3 processes do not divide 7."""
    recipe = load_recipe(recipe_file, [], TrainRecipe)
    model = load_backbone(recipe_file.parent / "backbone")
    delta = load_file(patch / "delta.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += torch.from_numpy(delta[name])
    samples = tokenized(recipe)
    chosen = choose_samples(ImportanceSettings(samples=7), len(samples))
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for index in chosen:
        model.zero_grad()
        sample_loss(model, *samples[index]).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            expected[name] += parameter.grad.abs() / 7
    importance = load_file(patch / "importance.safetensors")
    assert importance.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(importance[name], values.numpy(), rtol=1e-4, atol=1e-6)


def test_record_names_what_the_patch_was_made_from(patch: Path) -> None:
    record = json.loads((patch / "patch.json").read_text())
    assert (record["format"], record["role"], record["score"]) == (1, "safety", "gradient")
    assert (record["steps"], record["stop_reason"]) == (4, "all steps done")
    assert record["importance_samples"] == 7
    assert record["config"]["training"]["learning_rate"] == 1e-3
    assert len(record["peak_host_memory_mib"]) == record["processes"]
    for key in ("backbone_fingerprint", "data_hash", "identity", "versions", "training_seconds"):
        assert record[key]


def test_rerun_is_done_and_other_settings_are_refused(
    derive: Callable[[str], Path], recipe_file: Path
) -> None:
    patch = derive("2-processes")
    output = f"output={patch.parent}"
    before = (patch / "delta.safetensors").stat().st_mtime_ns
    again = run_training(recipe_file, output, processes=1)
    assert again.returncode == 0 and "already done" in again.stderr
    other = run_training(recipe_file, output, "safety.learning_rate=2e-3", processes=1)
    assert other.returncode == 2 and "delete it" in other.stderr
    assert (patch / "delta.safetensors").stat().st_mtime_ns == before


def test_bf16_training_keeps_fp32_masters(recipe_file: Path) -> None:
    """At a learning rate of 1e-5, most steps are below bf16's spacing; the delta has them all."""
    output = recipe_file.parent / "bf16"
    small = ["backbone.dtype=bfloat16", "safety.learning_rate=1e-5", "safety.gradient_clipping=0"]
    done = run_training(recipe_file, f"output={output}", *small)
    assert done.returncode == 0, done.stderr
    delta = load_file(output / "safety/delta.safetensors")
    weights = np.concatenate([v.ravel() for n, v in delta.items() if "_proj" in n])
    assert (np.abs(weights) > 1e-6).mean() > 0.95
    assert np.abs(weights).max() < 4.1e-5
