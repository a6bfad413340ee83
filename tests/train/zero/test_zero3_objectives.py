"""Objectives that need the backbone as a reference: two ZeRO-3 processes against plain PyTorch."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.nn.functional import kl_div

from tests.support.train_helpers import (
    ROOT,
    load_backbone,
    make_pairs,
    make_recipe,
    make_tokenizer,
    run_training,
)
from train.chat.prompts import ChatPrompts
from train.data.batches import BatchPlan, order_seed
from train.data.examples import read_examples
from train.objectives.losses import answer_losses
from train.objectives.training_data import TrainingData, tokenize_data
from train.recipe import TrainRecipe, load_recipe

pytestmark = pytest.mark.slow

BATCH, STEPS = 5, 4
EPSILON = 1e-3
"""Epsilon of Adam. The divergence starts at 0, so words that only harmless pairs have get a first
gradient of rounding alone, of which the usual 1e-8 would make a whole step."""


def make_refusals(path: Path) -> Path:
    """Refusals of two questions of D_h and of another one; they begin with different words."""
    pairs = json.loads(f"[{','.join(make_pairs(path, count=2).read_text().splitlines())}]")
    asked = [pairs[0]["question"], pairs[1]["question"], "w90 w90"]
    answers = ["w80 w81 w82", "w83 w81", "w84 w85 w86 w82"]
    rows = [{"question": q, "answer": a} for q, a in zip(asked, answers, strict=True)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objectives")
    harmless = make_pairs(folder / "harmless.jsonl", count=13)
    refusals = make_refusals(folder / "refusals.jsonl")
    guards = {"max_forget_loss": 50.0, "retained_samples": 4, "retained_every": 2}
    mismatch = {"kept_tokens": 97}
    config = json.loads((ROOT / "ds_configs/zero3_cpu.json").read_text())
    config["optimizer"]["params"]["eps"] = EPSILON
    (folder / "ds_config.json").write_text(json.dumps(config))
    return make_recipe(
        folder,
        harmless={"path": str(harmless)},
        refusals={"path": str(refusals)},
        safety={
            "guards": guards,
            "mismatch": mismatch,
            "npo_beta": 0.5,
            "derta": {"transition_share": 0.4, "harmless_weight": 3.0},
            "ds_config": str(folder / "ds_config.json"),
        },
    )


def logits_of(model: torch.nn.Module, sample: Any) -> tuple[torch.Tensor, torch.Tensor]:
    ids, labels = (torch.tensor([values]) for values in sample)
    return model(input_ids=ids).logits, labels


def plain_loss(model: torch.nn.Module, sample: Any) -> torch.Tensor:
    return answer_losses(*logits_of(model, sample))[0]


def plain_npo(model: Any, backbone: Any, data: TrainingData, indices: list[int]) -> torch.Tensor:
    total = torch.zeros(())
    for index in indices:
        sample = data.forget[index]
        answer = sum(label != -100 for label in sample[1])
        with torch.no_grad():
            before = -plain_loss(backbone, sample) * answer
        ratio = torch.exp(-plain_loss(model, sample) * answer - before)
        total = total + 2 / 0.5 * torch.log(1 + ratio**0.5) / len(indices)
    return total


def plain_mismatch_kl(
    model: Any, backbone: Any, data: TrainingData, indices: list[int], harmless: list[int]
) -> torch.Tensor:
    total = torch.zeros(())
    for index in indices:
        total = total - 0.5 * plain_loss(model, data.forget[index]) / len(indices)
        total = total + plain_loss(model, data.mismatched[index]) / len(indices)
    for index in harmless:
        logits, labels = logits_of(model, data.harmless[index])
        with torch.no_grad():
            before, _ = logits_of(backbone, data.harmless[index])
        answered = labels[:, 1:] != -100
        divergence = kl_div(
            logits[:, :-1][answered].log_softmax(-1),
            before[:, :-1][answered].log_softmax(-1),
            log_target=True,
            reduction="batchmean",
        )
        total = total + divergence / len(harmless)
    return total


def plain_derta(
    model: Any, data: TrainingData, step: int, seed: int, harmless: list[int]
) -> torch.Tensor:
    """Four of the 10 pairs of D_h turn, and 6 are refused; in a batch of 5 these are 2 and 3."""
    parts = data.decoupled
    assert parts is not None and (len(parts.transitions), len(parts.refusals)) == (4, 6)
    total = torch.zeros(())
    for index in BatchPlan(4, 2, seed).batch(step):
        logits, labels = logits_of(model, parts.transitions[index])
        places = [place - 1 for place in range(labels.shape[1]) if labels[0, place] != -100]
        expected = logits.log_softmax(-1)[0, places, parts.first_tokens[index]]
        total = total - 0.4 * expected.mean() / 2
    for index in BatchPlan(6, 3, seed).batch(step):
        total = total + 0.6 * plain_loss(model, parts.refusals[index]) / 3
    for index in harmless:
        total = total + 3.0 * plain_loss(model, data.harmless[index]) / len(harmless)
    return total


def plain_training(recipe: TrainRecipe, backbone_folder: Path) -> dict[str, np.ndarray]:
    """The delta by torch's own AdamW and clipping, one sample at a time."""
    backbone = load_backbone(backbone_folder)
    model = copy.deepcopy(backbone)
    assert recipe.harmless is not None and recipe.refusals is not None
    data = tokenize_data(
        ChatPrompts(make_tokenizer()),
        recipe.safety,
        read_examples(recipe.data),
        read_examples(recipe.harmless),
        recipe.seed,
        refusals=read_examples(recipe.refusals) if recipe.safety.objective == "derta" else (),
    )
    seed = order_seed(0, "safety")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, eps=EPSILON)
    for step in range(STEPS):
        indices = BatchPlan(len(data.forget), BATCH, seed).batch(step)
        optimizer.zero_grad()
        if recipe.safety.objective == "npo":
            loss = plain_npo(model, backbone, data, indices)
        else:
            harmless = BatchPlan(len(data.harmless), BATCH, seed).batch(step)
            loss = (
                plain_derta(model, data, step, seed, harmless)
                if recipe.safety.objective == "derta"
                else plain_mismatch_kl(model, backbone, data, indices, harmless)
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    before = dict(backbone.named_parameters())
    return {name: (p - before[name]).detach().numpy() for name, p in model.named_parameters()}


@pytest.mark.parametrize("objective", ["npo", "ascent_mismatch_kl", "derta"])
def test_delta_equals_plain_training(recipe_file: Path, objective: str) -> None:
    run = recipe_file.parent / objective
    arguments = [f"output={run}", f"safety.objective={objective}"]
    done = run_training(recipe_file, *arguments)
    assert done.returncode == 0, done.stderr
    delta = load_file(run / "safety/delta.safetensors")
    recipe = load_recipe(recipe_file, arguments, TrainRecipe)
    for name, expected in plain_training(recipe, recipe_file.parent / "backbone").items():
        np.testing.assert_allclose(delta[name], expected, rtol=0, atol=1e-6, err_msg=name)
        assert np.abs(delta[name]).max() > 1e-4
    record = json.loads((run / "safety/patch.json").read_text())
    assert record["harmless_hash"] and ("refusals_hash" in record) == (objective == "derta")
