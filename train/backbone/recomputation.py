"""Gradient checkpointing outside a training's steps, where transformers leaves it out."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.nn import Module
from torch.utils.checkpoint import checkpoint


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Put a model into evaluation mode, where a backward pass still recomputes activations.

    transformers heeds ``gradient_checkpointing_enable`` in training mode alone. A backward pass
    in evaluation mode would keep what the training recomputes, and need more memory than it. Here
    those layers are recomputed by themselves; in training mode many would turn on a dropout of
    their own. Layers of a model with code of its own that are no ``GradientCheckpointingLayer``
    of transformers keep their activations. The model stays in evaluation mode after the block.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    model.eval()
    layers: list[Any] = [
        layer
        for layer in model.modules()
        if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing
    ]
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            (layer.forward,) = layer.forward.args
