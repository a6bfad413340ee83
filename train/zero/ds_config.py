"""DeepSpeed's configuration: a file of ds_configs/ or the user's, completed from the recipe."""

import json
from pathlib import Path
from typing import Any

import torch

from merge.common.errors import UserError
from train.data.batches import micro_batches
from train.settings import TrainingSettings
from train.zero.ranks import World

_OPTIMIZERS = ("AdamW", "Adam")
"""Their first moment is where importance is summed when the training is done."""
_SGD = {
    "optimizer": {"type": "SGD", "params": {"lr": 1.0}},
    "zero_allow_untested_optimizer": True,
    # A clipped gradient would make the steps shorter.
    "gradient_clipping": 0.0,
}
"""In place of what a file says; ``Zero3Model.step`` sets the rate."""
CONFIG_FOLDER = Path(__file__).parents[2] / "ds_configs"


def ds_config(training: TrainingSettings, dtype: str, world: World) -> dict[str, Any]:
    """The configuration of one training; what the recipe says stands in the file as ``"auto"``.

    Args:
        dtype: of the computation, "bfloat16" or "float32".

    Raises:
        UserError: not readable as JSON, not stage 3, not Adam, low precision where fp32 is needed,
            or an ``"auto"`` that the recipe lacks.
    """
    name = "zero3_gpu.json" if torch.cuda.is_available() else "zero3_cpu.json"
    path = CONFIG_FOLDER / name if training.ds_config == "auto" else Path(training.ds_config)
    size = training.micro_batch_size
    # A nominal number with ``all`` of D_h: the loop itself says where each accumulation ends.
    batch = training.batch_of(size * world.size)
    share = micro_batches(range(batch), size, world.rank, world.size)
    from_recipe = {
        "train_micro_batch_size_per_gpu": size,
        "gradient_accumulation_steps": len(share),
        "gradient_clipping": training.gradient_clipping,
        "optimizer.params.lr": training.learning_rate,
        "optimizer.params.weight_decay": training.weight_decay,
        "bf16.enabled": dtype == "bfloat16",
    }
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"ds_config {path}: cannot be read as JSON ({error})") from None
    if config.get("zero_optimization", {}).get("stage") != 3:
        raise UserError(f"ds_config {path}: zero_optimization.stage must be 3")
    if config.get("optimizer", {}).get("type") not in _OPTIMIZERS:
        raise UserError(f"ds_config {path}: optimizer.type must be {' or '.join(_OPTIMIZERS)}")
    config = _in_fp32(_fill(config, from_recipe, path), path)
    if training.optimizer == "sgd_normalised":
        return {**config, **_SGD}
    if training.adam_eps is not None:
        config["optimizer"].setdefault("params", {})["eps"] = training.adam_eps
    return config


def _in_fp32(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Have gradients summed and exchanged in fp32, also where the file says nothing of it.

    DeepSpeed's default is the computation's dtype. In bf16 the importance was 6.8 % off after 256
    samples.

    Raises:
        UserError: the file asks for another precision.
    """
    types = {"grad_accum_dtype": "fp32", **config.get("data_types", {})}
    config = {"communication_data_type": "fp32", **config, "data_types": types}
    for key, value in (
        ("communication_data_type", config["communication_data_type"]),
        ("data_types.grad_accum_dtype", types["grad_accum_dtype"]),
    ):
        if value != "fp32":
            raise UserError(
                f'ds_config {path}: {key} must be "fp32", not {json.dumps(value)}: the importance '
                "would be summed wrongly; leave it out"
            )
    if config.get("fp16", {}).get("enabled"):
        raise UserError(
            f"ds_config {path}: fp16.enabled must be false, as gradients in fp16 are scaled; "
            "backbone.dtype in the recipe chooses bfloat16 or float32"
        )
    return config


def check_config(config: dict[str, Any], name: str) -> None:
    """Let DeepSpeed judge a completed configuration, before any weights are loaded.

    Args:
        name: what the recipe calls it.

    Raises:
        UserError: a key that DeepSpeed does not know, or a value that it does not take.
    """
    # Takes seconds to import, which ``launch plan`` does not need.
    from deepspeed.runtime.config import DeepSpeedConfig

    try:
        DeepSpeedConfig(config)
    except (ValueError, TypeError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"ds_config {name}: DeepSpeed refuses it ({reason}); fix it") from None


def _fill(value: Any, from_recipe: dict[str, Any], path: Path, key: str = "") -> Any:
    if isinstance(value, dict):
        prefix = f"{key}." if key else ""
        return {
            name: _fill(inner, from_recipe, path, prefix + name) for name, inner in value.items()
        }
    if value != "auto":
        return value
    if key not in from_recipe:
        raise UserError(f"ds_config {path}: '{key}' cannot be \"auto\"; give it a value")
    return from_recipe[key]
