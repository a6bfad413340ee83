"""DeepSpeed configurations: completed from the recipe, and what is refused."""

import json
from pathlib import Path

import pytest
import torch

from merge.common.errors import UserError
from train.settings import SafetyTraining
from train.zero.ds_config import check_config, ds_config
from train.zero.ranks import World

FOLDER = Path(__file__).parents[3] / "ds_configs"
WORLD = World(rank=0, size=3, local_rank=0, local_size=3)


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.json")), ids=lambda file: file.stem)
def test_batch_sizes_and_optimizer_come_from_the_recipe(file: Path) -> None:
    training = SafetyTraining(
        batch_size=20, micro_batch_size=2, learning_rate=3e-6, ds_config=str(file)
    )
    config = ds_config(training, "bfloat16", WORLD)
    assert "auto" not in json.dumps(config)
    assert config["train_micro_batch_size_per_gpu"] == 2
    assert config["gradient_accumulation_steps"] == 4  # 20 samples in micro-batches of 3 x 2
    assert config["optimizer"]["params"]["lr"] == 3e-6
    assert config["bf16"]["enabled"] is True
    # In low precision they would sum importance wrongly.
    assert config["communication_data_type"] == "fp32"
    assert config["data_types"]["grad_accum_dtype"] == "fp32"


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.json")), ids=lambda file: file.stem)
def test_deepspeed_itself_takes_every_file(file: Path) -> None:
    """By its own checks; of the keys that it reads in silence, the values arrive."""
    from deepspeed.runtime.config import DeepSpeedConfig

    training = SafetyTraining(batch_size=20, micro_batch_size=2, ds_config=str(file))
    read = DeepSpeedConfig(ds_config(training, "bfloat16", World(0, 1, 0, 1)))
    assert (read.train_batch_size, read.zero_optimization_stage) == (20, 3)
    assert read.optimizer_name == "adamw" and read.bfloat16_config.enabled
    assert (read.communication_data_type, read.grad_accum_dtype) == (torch.float32, "fp32")
    offloads = [read.zero_config.offload_optimizer, read.zero_config.offload_param]
    assert [offload is not None for offload in offloads] == 2 * [file.stem == "zero3_offload"]


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.json")), ids=lambda file: file.stem)
def test_optimizers_of_the_recipe(file: Path) -> None:
    """Adam's eps by the recipe's key; normalised steps are never clipped."""
    from deepspeed.runtime.config import DeepSpeedConfig

    usual = ds_config(SafetyTraining(ds_config=str(file)), "float32", WORLD)
    other = SafetyTraining(ds_config=str(file), adam_eps=0.5, batch_size="all")
    config = ds_config(other, "float32", WORLD)
    assert config["optimizer"]["params"].pop("eps") == 0.5
    assert usual["optimizer"]["params"].pop("eps") == 1e-8
    assert config["optimizer"] == usual["optimizer"] and config["gradient_clipping"] == 1.0
    normalised = SafetyTraining(ds_config=str(file), optimizer="sgd_normalised")
    read = DeepSpeedConfig(ds_config(normalised, "float32", World(0, 1, 0, 1)))
    assert read.optimizer_name == "SGD" and read.gradient_clipping == 0


def test_what_deepspeed_refuses_is_one_line() -> None:
    training = SafetyTraining(ds_config=str(FOLDER / "zero3_cpu.json"))
    config = ds_config(training, "float32", World(0, 1, 0, 1))
    config["zero_optimization"]["overlap_com"] = True
    with pytest.raises(UserError, match=r"ds_config mine: .*overlap_com Extra inputs") as error:
        check_config(config, "mine")
    assert "\n" not in str(error.value)


def _with(more: str) -> str:
    return f'{{"zero_optimization": {{"stage": 3}}, "optimizer": {{"type": "Adam"}}, {more}}}'


def test_a_file_that_names_no_precision_sums_in_fp32(tmp_path: Path) -> None:
    """Else DeepSpeed sums the importance's samples in bf16, without a word."""
    from deepspeed.runtime.config import DeepSpeedConfig

    path = tmp_path / "mine.json"
    path.write_text(_with('"train_batch_size": 1, "bf16": {"enabled": "auto"}'))
    training = SafetyTraining(ds_config=str(path), batch_size=1)
    config = ds_config(training, "bfloat16", World(0, 1, 0, 1))
    read = DeepSpeedConfig(config)
    assert (read.communication_data_type, read.grad_accum_dtype) == (torch.float32, "fp32")
    path.write_text(_with('"data_types": {"grad_accum_dtype": "fp32"}, "fp16": {"enabled": false}'))
    assert ds_config(training, "bfloat16", WORLD)["communication_data_type"] == "fp32"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ('{"zero_optimization": {"stage": 2}}', "stage must be 3"),
        ('{"zero_optimization": {"stage": 3}}', "optimizer.type must be AdamW or Adam"),
        (
            '{"zero_optimization": {"stage": 3}, "optimizer": {"type": "Adam"}, "x": "auto"}',
            "'x' cannot be \"auto\"",
        ),
        (_with('"communication_data_type": "bf16"'), 'communication_data_type must be "fp32"'),
        (
            _with('"data_types": {"grad_accum_dtype": null}'),
            'data_types.grad_accum_dtype must be "fp32", not null',
        ),
        (_with('"fp16": {"enabled": true}'), "fp16.enabled must be false"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"mine\.json") as error:
        ds_config(SafetyTraining(ds_config=str(path)), "float32", WORLD)
    assert message in str(error.value)
