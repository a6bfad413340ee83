"""The plan of a training: parameters and bytes by hand, and tables."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from transformers import AutoConfig, LlamaConfig

from launch.prepare.preflight import patch_bytes
from launch.recipe import Recipe
from launch.sizing.plan import gpu_need, plan, plan_table
from launch.sizing.training_needs import Model, activation_bytes, checkpoint_bytes
from tests.support.architectures import make_model
from train.backbone.flops import peak_flops
from train.backbone.skeleton import build_skeleton
from train.recipe import ROLES, load_recipe
from train.settings import GuardSettings, SafetyTraining

LLAMA_7B: dict[str, Any] = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008}
_GONE = "false_refusals.path=gone.jsonl"
TRAINING = SafetyTraining(micro_batch_size=1, max_length=512, gradient_checkpointing=True)


@pytest.fixture(scope="module")
def llama_7b() -> Model:
    heads: dict[str, Any] = {"num_hidden_layers": 32, "num_attention_heads": 32}
    return Model.from_config(LlamaConfig(**LLAMA_7B, **heads))


def test_parameters_are_counted_without_memory(llama_7b: Model) -> None:
    """LLaMA-2-7B has 6,738,415,616 parameters."""
    assert llama_7b.shape.parameters == 6_738_415_616
    assert llama_7b.shape.embedding == 32000 * 4096


def test_flops_of_a_token_follow_torchtitan(llama_7b: Model) -> None:
    expected = 6 * (6_738_415_616 - 32000 * 4096) + 12 * 32 * 4096 * 1024
    assert llama_7b.shape.training_flops(1024) == expected
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("cpu") is None


@pytest.mark.parametrize("gpus", [2, 4, 8])
def test_model_states_agree_with_deepspeeds_own_estimate(llama_7b: Model, gpus: int) -> None:
    """``estimate_zero3_model_states_mem_needs`` counts 18 bytes a parameter (57.0, 28.7 and 14.6
    GiB with its largest layer); here the compute weights, fp32 gradients, masters, moments."""
    need = gpu_need(llama_7b, TRAINING, "zero3_gpu", 1, gpus).gpu
    states = need.weights + need.gradients + need.optimizer
    assert states == pytest.approx(18 * 6_738_415_616 / gpus)
    assert need.total == pytest.approx(sum(need.parts().values()))


def test_sgd_keeps_no_moments_but_the_sums_of_the_importance(llama_7b: Model) -> None:
    """Its fp32 masters and sums: 8 bytes a parameter, where Adam has 12."""
    training = TRAINING.model_copy(update={"optimizer": "sgd_normalised"})
    need = gpu_need(llama_7b, training, "zero3_gpu", 1, 4)
    assert need.gpu.optimizer == pytest.approx(8 * 6_738_415_616 / 4)
    adam, sgd = (checkpoint_bytes(llama_7b, each, 2) for each in (TRAINING, training))
    assert adam - sgd == pytest.approx(4 * 6_738_415_616)
    adam, sgd = (gpu_need(llama_7b, each, "zero3_offload", 1, 1) for each in (TRAINING, training))
    assert adam.host - sgd.host == pytest.approx(4 * 6_738_415_616)


def test_offload_moves_the_states_to_the_host(llama_7b: Model) -> None:
    need = gpu_need(llama_7b, TRAINING, "zero3_offload", 1, 1)
    assert need.gpu.weights == need.gpu.gradients == need.gpu.optimizer == 0
    assert need.gpu.total < 24e9
    assert need.host > 18 * 6_738_415_616


def test_checkpointing_keeps_one_block(llama_7b: Model) -> None:
    whole = activation_bytes(
        llama_7b, TRAINING.model_copy(update={"gradient_checkpointing": False}), 2
    )
    kept = activation_bytes(llama_7b, TRAINING, 2)
    block = whole / 32
    assert kept == pytest.approx(block + 32 * 512 * 4096 * 2)


def test_disk_of_checkpoints_and_patches(llama_7b: Model) -> None:
    assert checkpoint_bytes(llama_7b, TRAINING, 2) == 14 * 6_738_415_616
    watched = SafetyTraining(guards=GuardSettings(margin_samples=9))
    assert checkpoint_bytes(llama_7b, watched, 2) == 18 * 6_738_415_616
    assert patch_bytes(llama_7b.shape) == 8 * 6_738_415_616


def make_recipe(folder: Path, **shape: Any) -> Path:
    """A recipe of a backbone of which there is only the configuration."""
    config: dict[str, Any] = {**LLAMA_7B, "num_hidden_layers": 2, **shape}
    LlamaConfig(**config).save_pretrained(folder)
    recipe = folder / "recipe.yaml"
    backbone = {"path": str(folder)}
    recipe.write_text(
        json.dumps({"name": folder.name, "backbone": backbone, "data": {"path": "d.jsonl"}})
    )
    return recipe


def run_plan(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "launch", "plan", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )


@pytest.mark.slow
def test_command_tells_all_that_a_training_needs_from_a_configuration(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    done = run_plan(recipe, "data.limit=100", "--nodes", "1", "--gpus-per-node", "8")
    assert done.returncode == 0, done.stderr
    for words in ("zero3_gpu", "zero3_offload", "141 GB", "over_safety: patch"):
        assert words in done.stdout


@pytest.mark.slow
def test_one_table_says_what_fits_where(tmp_path: Path, llama_7b: Model) -> None:
    """7B and 13B on 1 to 16 GPUs of five sizes; 18 bytes a parameter alone decide the edges."""
    seven = make_recipe(tmp_path / "7b", num_hidden_layers=32)
    sizes: dict[str, Any] = {"hidden_size": 5120, "intermediate_size": 13824}
    thirteen = make_recipe(tmp_path / "13b", **sizes, num_hidden_layers=40, num_attention_heads=40)
    both = [f"{role}.gradient_checkpointing=true" for role in ROLES]
    done = run_plan(seven, thirteen, *both)
    assert done.returncode == 0, done.stderr
    assert "larger training" not in done.stdout
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in done.stdout.splitlines()
        if line.startswith("│")
    ]
    cells = {(row[0], row[1].split()[0], row[2]): row[3:] for row in rows}
    assert len(cells) == len(rows) == 2 * 5 * 2
    need = gpu_need(llama_7b, TRAINING, "zero3_gpu", 1, 8)
    assert cells["7b", "8", "zero3_gpu"][0] == f"{need.gpu.total / 1e9:.1f}"
    # States of 121 GB on one GPU, 15 on each of eight; of 13B 117 on each of two.
    every = ["24", "40", "48", "80", "141"]
    fitting = {
        key: [size for size, word in zip(every, row[2:], strict=True) if word == "yes"]
        for key, row in cells.items()
    }
    assert set(fitting["7b", "1", "zero3_gpu"]) <= {"141"}
    assert set(fitting["13b", "2", "zero3_gpu"]) <= {"141"}
    assert fitting["7b", "4", "zero3_gpu"] == ["40", "48", "80", "141"]
    assert fitting["7b", "8", "zero3_gpu"] == every
    assert fitting["13b", "16", "zero3_gpu"] == every
    assert fitting["7b", "1", "zero3_offload"] == every
    assert float(cells["13b", "1", "zero3_offload"][1]) > 18 * 13


def test_the_larger_of_both_trainings_decides_and_is_named(tmp_path: Path, llama_7b: Model) -> None:
    """Four times the tokens in a micro-batch of the over-safety training, and no checkpointing."""
    file = make_recipe(tmp_path, num_hidden_layers=32)
    changes = ["safety.gradient_checkpointing=true", "over_safety.max_length=2048"]
    recipe = load_recipe(file, [*changes, "data.limit=100"], Recipe)
    needs = {
        role: gpu_need(llama_7b, recipe.training(role), "zero3_gpu", 1, 8).gpu.total
        for role in ROLES
    }
    assert needs["over_safety"] > 1.5 * needs["safety"]
    console = Console(width=160)
    with console.capture() as capture:
        console.print(plan(recipe, 1, 8)[0])
        console.print(plan_table([recipe])[0])
    shown = capture.get()
    (heads,) = [line for line in shown.splitlines() if "zero3_gpu, over_safety" in line]
    (sums,) = [line for line in shown.splitlines() if re.match(r"│ sum", line)]
    columns = [cell.strip() for cell in heads.strip("┃").split("┃")]
    totals = dict(zip(columns, (cell.strip() for cell in sums.strip("│").split("│")), strict=True))
    for role in ROLES:
        assert totals[f"zero3_gpu, {role}"] == f"{needs[role] / 1e9:.1f}"
    assert "over_safety: micro-batches of 1 x 2048 tokens, gradient checkpointing off" in shown
    (row,) = [line for line in shown.splitlines() if re.match(r"│ \S+ +│ 8 +│ zero3_gpu", line)]
    assert row.strip("│").split("│")[3].strip() == f"{needs['over_safety'] / 1e9:.1f}"
    assert "memory of the larger training, which is over_safety" in shown


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nodes", "1"], "give one recipe with --nodes and --gpus-per-node"),
        (["--nodes", "0", "--gpus-per-node", "8"], "--nodes 0: must be at least 1"),
        (["backbone.path=./none", "--nodes", "1", "--gpus-per-node", "8"], "no such folder"),
        (
            ["backbone.path=${output}/world/backbone", "--nodes", "1", "--gpus-per-node", "8"],
            "the run makes it, and has not yet",
        ),
        (["--nodes", "1", "--gpus-per-node", "8"], "or set data.limit"),
        (
            [
                "data.limit=9",
                "over_safety.data=both",
                _GONE,
                "--nodes",
                "1",
                "--gpus-per-node",
                "8",
            ],
            "or set false_refusals.limit",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run_plan(make_recipe(tmp_path), *arguments)
    assert done.returncode == 2 and message in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in done.stderr


def test_widths_of_lists_and_without_a_name_are_planned(tmp_path: Path) -> None:
    """GPT-2, Bloom and MPT name no width of the feed-forward layer, Gemma 3n one for each."""
    for kind in ("gpt2", "bloom", "mpt"):
        config = AutoConfig.from_pretrained(make_model(kind, tmp_path / kind))
        assert Model.from_config(config).intermediate == 64
    config = LlamaConfig(**LLAMA_7B, num_hidden_layers=1, num_attention_heads=32)
    skeleton = build_skeleton(config, False, "tiny")
    text = SimpleNamespace(intermediate_size=[11008, 512])
    skeleton.config = SimpleNamespace(
        get_text_config=lambda: SimpleNamespace(**{**config.to_dict(), **vars(text)})
    )
    assert Model.of(skeleton).intermediate == 11008
