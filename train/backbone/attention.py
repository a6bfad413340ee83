"""In which dtype a backbone is trained, and which of its attention implementations computes."""

from typing import Any

import torch

from merge.common.errors import UserError
from train.recipe import BackboneSettings


def computation_dtype(backbone: BackboneSettings) -> str:
    """The recipe's choice, else bfloat16 on GPUs and float32 on CPUs."""
    return backbone.dtype or ("bfloat16" if torch.cuda.is_available() else "float32")


def attention_implementation(backbone: BackboneSettings, skeleton: Any) -> str | None:
    """The recipe's choice, else the fastest that the architecture and this machine have.

    FlashAttention where it is installed and the computation is in bfloat16, else PyTorch's fused
    attention, else what the architecture itself defaults to (Gemma 2, gpt-oss, Bloom and MPT have
    no fused one).

    Args:
        skeleton: the model without values, see ``train.backbone.skeleton``.

    Returns:
        transformers' ``attn_implementation``; None is the architecture's default.

    Raises:
        UserError: the recipe names one that the architecture or this machine does not have.
    """
    from transformers.utils.import_utils import is_flash_attn_2_available

    if backbone.attention != "auto":
        _refuse_missing(backbone.attention, skeleton)
        return backbone.attention
    half = computation_dtype(backbone) == "bfloat16"
    if half and skeleton._supports_flash_attn and is_flash_attn_2_available():
        return "flash_attention_2"
    return "sdpa" if skeleton._supports_sdpa else None


def _refuse_missing(name: str, skeleton: Any) -> None:
    from transformers.utils.import_utils import is_flash_attn_2_available

    supported = {
        "eager": True,
        "sdpa": skeleton._supports_sdpa,
        "flash_attention_2": skeleton._supports_flash_attn,
        "flex_attention": skeleton._supports_flex_attn,
    }
    if not supported[name]:
        raise UserError(
            f"backbone.attention {name}: {type(skeleton).__name__} does not have it; leave it out, "
            "or choose " + " or ".join(each for each, there in supported.items() if there)
        )
    if name == "flash_attention_2" and not is_flash_attn_2_available():
        raise UserError(
            "backbone.attention flash_attention_2: flash-attn is not installed, or this machine "
            "has no GPU; leave it out"
        )
