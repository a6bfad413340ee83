"""The plan of a training: parameters and bytes by hand, tables, and what is refused."""

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
from transformers import AutoConfig, AutoTokenizer, LlamaConfig

from launch.prepare.preflight import check_inputs, patch_bytes
from launch.prepare.text_check import check_data
from launch.recipe import Recipe
from launch.sizing.plan import gpu_need, plan, plan_table
from launch.sizing.training_needs import Model, activation_bytes, checkpoint_bytes
from merge.common.errors import UserError
from tests.support.architectures import make_model
from tests.support.train_helpers import make_recipe as make_training_recipe
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


def test_command_tells_all_that_a_training_needs_from_a_configuration(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    done = run_plan(recipe, "data.limit=100", "--nodes", "1", "--gpus-per-node", "8")
    assert done.returncode == 0, done.stderr
    for words in ("zero3_gpu", "zero3_offload", "141 GB", "over_safety: patch"):
        assert words in done.stdout


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nodes", "1"], "give one recipe with --nodes and --gpus-per-node"),
        (["--nodes", "0", "--gpus-per-node", "8"], "--nodes 0: must be at least 1"),
        (["backbone.path=./none", "--nodes", "1", "--gpus-per-node", "8"], "no such folder"),
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


def make_world(folder: Path, **sections: Any) -> Path:
    """A recipe over a tiny Llama with data, a suite of every axis, and a tokenizer."""
    backbone = make_model("llama", folder / "backbone")
    for name in ("harm", "refusal"):
        (folder / f"{name}.jsonl").write_text(json.dumps({"prompt": "w50 w51"}) + "\n")
    choice = {"prompt": "w60", "choices": ["w1", "w2 w3"], "answer": "w1"}
    (folder / "utility.jsonl").write_text(json.dumps(choice) + "\n")
    rows: list[dict[str, Any]] = [
        {"name": axis, "axis": axis, "source": f"{axis}.jsonl"} for axis in ("harm", "refusal")
    ]
    columns = {"choices": "choices", "answer": "answer"}
    rows.append({"name": "u", "axis": "utility", "source": "utility.jsonl", "scoring": "choice"})
    rows[-1]["columns"] = columns
    (folder / "suite.yaml").write_text(json.dumps(rows))
    (folder / "harm.yaml").write_text(json.dumps(rows[:1]))
    suites = {"search": {"suite": str(folder / "suite.yaml")}}
    changes = {"backbone": {"path": str(backbone)}, "merge": {}, **suites, **sections}
    return make_training_recipe(folder, **changes)


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "vllm": (
        {"search": None, "eval": {"suite": "harm.yaml", "backend": "vllm"}},
        "vllm is not installed; pip",
    ),
    "axis": ({"search": {"suite": "harm.yaml"}}, "no row of axis refusal or utility"),
    "include": ({"merge": {"include": ["*nope*"]}}, "merge: include and exclude leave no tensor"),
    "ablation": ({"ablations": {"bare": {"exclude": ["*"]}}}, "bare: include and exclude leave"),
    "max_length": ({"over_safety": {"max_length": 3}}, "max_length 3 leaves nothing"),
    "ds_config": ({"over_safety": {"ds_config": "none.json"}}, "ds_config none.json: cannot be"),
    "attention": (
        {"backbone": {"attention": "flash_attention_2"}},
        "flash-attn is not installed",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_run_and_plan_refuse_alike_before_any_training(fault: str, tmp_path: Path) -> None:
    """What would end a run after its trainings, or in the second of them."""
    sections, message = FAULTS[fault]
    path = make_world(tmp_path, **sections)
    text = path.read_text().replace("harm.yaml", str(tmp_path / "harm.yaml"))
    path.write_text(text)
    recipe = load_recipe(path, [], Recipe)
    with pytest.raises(UserError, match=message):
        check_inputs(recipe)
    _, faults = plan_table([recipe])
    assert len(faults) == 1 and re.search(message, faults[0])


def test_more_groups_than_layers_are_refused_before_any_training(tmp_path: Path) -> None:
    recipe = load_recipe(make_world(tmp_path), ["search.layer_groups=40"], Recipe)
    with pytest.raises(UserError, match="layer_groups 40: only 2 layers are merged; lower it"):
        check_inputs(recipe)


def test_a_sound_recipe_has_no_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = load_recipe(make_world(tmp_path), [], Recipe)
    check_inputs(recipe)
    assert plan_table([recipe])[1] == []
    assert "no row of axis" not in caplog.text


def test_a_test_suite_without_an_axis_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A verdict on harm alone would hide what a patch costs."""
    recipe = load_recipe(make_world(tmp_path), [f"eval.suite={tmp_path / 'harm.yaml'}"], Recipe)
    check_data(recipe.model_copy(update={"search": None}))
    assert "has no row of axis refusal or utility: the report cannot say" in caplog.text


def test_texts_longer_than_the_learned_positions_are_refused(tmp_path: Path) -> None:
    """An answer may take the room that its suite row gives it."""
    recipe = load_recipe(make_world(tmp_path), [], Recipe)
    make_model("gpt2", tmp_path / "gpt2", n_positions=40)
    learned = recipe.model_copy(
        update={"backbone": recipe.backbone.model_copy(update={"path": str(tmp_path / "gpt2")})}
    )
    with pytest.raises(UserError, match=r"with max_new_tokens 256 takes .* has 40 positions"):
        check_inputs(learned)


def test_a_choice_without_an_embedding_is_refused(tmp_path: Path) -> None:
    """Tokens of choices count, and padding tokens that no text holds do not."""
    path = make_world(tmp_path)
    config = tmp_path / "backbone/config.json"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "backbone")
    tokenizer.add_tokens(["zebra", "unused"])
    tokenizer.save_pretrained(tmp_path / "backbone")
    assert json.loads(config.read_text())["vocab_size"] == 97
    check_inputs(load_recipe(path, [], Recipe))
    choice = {"prompt": "w60", "choices": ["zebra", "w2"], "answer": "w2"}
    (tmp_path / "utility.jsonl").write_text(json.dumps(choice) + "\n")
    with pytest.raises(UserError, match="into token 97, and its model has 97 embeddings"):
        check_inputs(load_recipe(path, [], Recipe))


def test_a_disk_that_is_too_small_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(make_world(tmp_path), [], Recipe)
    monkeypatch.setattr("launch.prepare.preflight.free_bytes", lambda folder: 70_000)
    with pytest.raises(UserError, match=r"need \d+ bytes, checkpoints apart, and 70000 bytes"):
        check_inputs(recipe)


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
