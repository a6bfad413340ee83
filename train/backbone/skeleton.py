"""A backbone without its values: every module and parameter shape, on the meta device."""

from typing import Any

import torch

from merge.common.errors import UserError, first_line

_NOT_IN_PARTITIONS = ("gemma3n", "gemma3n_text", "rwkv")
"""Architectures of transformers 5.23 whose code reads weights where ZeRO-3 has partitioned them:
tried, and failed while loading (RWKV) or in the first step (Gemma 3n)."""


def build_skeleton(config: Any, trust_remote_code: bool, source: str) -> Any:
    """Build the causal language model of a transformers configuration without memory for weights.

    Args:
        source: what errors call the backbone.

    Returns:
        A ``PreTrainedModel`` whose parameters have shapes and no values. Tied parameters are one.

    Raises:
        UserError: transformers knows no causal language model for this configuration.
    """
    from transformers import AutoModelForCausalLM

    if config.model_type in _NOT_IN_PARTITIONS:
        raise UserError(
            f"backbone {source}: {config.model_type} does not run in ZeRO-3's partitions under this"
            " transformers version; use a model of another architecture"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise UserError(
            f"backbone {source}: its config.json has a quantization_config, and quantized weights "
            "cannot be trained; use the unquantized model, or take the key out if its weights are"
        )
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:
        # Constructors of single architectures raise what they like about a configuration.
        raise UserError(
            f"backbone {source}: transformers builds no causal language model from its "
            f"configuration ({first_line(error)}); use a chat model of an architecture that "
            "it supports"
        ) from None
    model.tie_weights()
    return model
