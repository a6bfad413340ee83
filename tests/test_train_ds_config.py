"""DeepSpeed configurations: completed from the recipe, and what is refused."""

import json
from pathlib import Path

import pytest

from merge.errors import UserError
from train.ds_config import ds_config
from train.settings import SafetyTraining
from train.world import World

FOLDER = Path(__file__).parent.parent / "ds_configs"
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
    # Of low precision they would sum importance wrongly.
    assert config["communication_data_type"] == "fp32"
    assert config["data_types"]["grad_accum_dtype"] == "fp32"


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
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"mine\.json") as error:
        ds_config(SafetyTraining(ds_config=str(path)), "float32", WORLD)
    assert message in str(error.value)
