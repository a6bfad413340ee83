"""A backbone without its values: every module and parameter shape, on the meta device."""

from typing import Any

import torch

from merge.errors import UserError


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
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"backbone {source}: transformers builds no causal language model from its "
            f"configuration ({reason}); use a chat model of an architecture that it supports"
        ) from None
    model.tie_weights()
    return model
