"""The backbone as a partitioned model in training, checked against its files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from merge.errors import UserError
from train.backbone import BackboneTensors
from train.collectives import sum_over_ranks
from train.ds_config import check_config, ds_config
from train.importance import absolute_gradient
from train.recipe import BackboneSettings
from train.settings import TrainingSettings
from train.world import World
from train.zero3 import Zero3Model


def load_model(
    directory: Path,
    tensors: BackboneTensors,
    backbone: BackboneSettings,
    training: TrainingSettings,
    world: World,
) -> Zero3Model:
    """Load the backbone in partitions, ready to train (collective).

    Raises:
        UserError: the model cannot be built, or is not what its files hold.
    """
    dtype = backbone.dtype or ("bfloat16" if torch.cuda.is_available() else "float32")
    config = ds_config(training, dtype, world)
    check_config(config, training.ds_config)
    use_liger = liger_patch() if training.liger else None

    def load() -> torch.nn.Module:
        from transformers import AutoModelForCausalLM

        try:
            model: Any = AutoModelForCausalLM.from_pretrained(
                directory,
                dtype=getattr(torch, dtype),
                attn_implementation=attention_implementation(dtype),
                trust_remote_code=backbone.trust_remote_code,
                use_safetensors=True,
            )
        except (OSError, ValueError) as error:
            reason = str(error).strip().split("\n")[0]
            raise UserError(f"backbone {directory}: cannot be loaded ({reason})") from None
        if use_liger is not None:
            # Norms, rotations and gated layers. Its fused loss is left out: objectives and guards
            # need the logits that it never forms.
            use_liger(model=model, fused_linear_cross_entropy=False, cross_entropy=False)
        if training.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return model

    model = Zero3Model(config, load, absolute_gradient)
    _check_weights(model, tensors, directory)
    return model


def attention_implementation(dtype: str) -> str:
    """FlashAttention where it is installed and can run, else PyTorch's own fused attention."""
    from transformers.utils.import_utils import is_flash_attn_2_available

    return "flash_attention_2" if dtype == "bfloat16" and is_flash_attn_2_available() else "sdpa"


def liger_patch() -> Callable[..., None]:
    """liger-kernel's function that puts its kernels into one model.

    Raises:
        UserError: they cannot run here.
    """
    if not torch.cuda.is_available():
        raise UserError(
            "liger: its kernels run on GPUs only, and this machine has none; leave liger out of "
            "the recipe"
        )
    try:
        from liger_kernel.transformers import (  # pyright: ignore[reportMissingImports]
            _apply_liger_kernel_to_instance,
        )
    except ImportError as error:
        raise UserError(
            f"liger: liger-kernel cannot be imported ({error}); run 'pip install liger-kernel' on "
            "the GPU machine, or leave liger out of the recipe"
        ) from None
    return _apply_liger_kernel_to_instance


def _check_weights(model: Zero3Model, tensors: BackboneTensors, directory: Path) -> None:
    """Compare every loaded bit with the files (collective): each rank its own partitions.

    Some architectures of transformers load wrongly under ZeRO-3 (transformers issues 45313 and
    45397), and a patch is addressed by the names in the backbone's files.
    """
    missing = [name for name in model.parameters if name not in tensors]
    if missing:
        raise UserError(
            f"backbone {directory}: its files have no tensor '{missing[0]}' that the model has; "
            "save it again with this transformers version"
        )
    wrong = 0
    for name in model.parameters:
        start, stop = model.local_range(name)
        loaded = model.local_weights(name).cpu()
        wrong += not torch.equal(loaded, tensors.read_flat(name, start, stop, model.dtype))
    if sum_over_ranks([float(wrong)])[0]:
        raise UserError(
            f"backbone {directory}: the loaded weights differ from its files; another "
            "transformers version may load this architecture rightly under ZeRO-3"
        )
