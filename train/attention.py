"""In which dtype a backbone is trained, and which of its attention implementations computes."""

from typing import Any

import torch

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
        skeleton: the model without values, see ``train.skeleton``.

    Returns:
        transformers' ``attn_implementation``; None is the architecture's default.
    """
    from transformers.utils.import_utils import is_flash_attn_2_available

    if backbone.attention != "auto":
        return backbone.attention
    half = computation_dtype(backbone) == "bfloat16"
    if half and skeleton._supports_flash_attn and is_flash_attn_2_available():
        return "flash_attention_2"
    return "sdpa" if skeleton._supports_sdpa else None
