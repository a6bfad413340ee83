"""The linear weights inside the decoder blocks: what a merge covers unless a recipe says less.

Found from the model's modules, so that it holds for every architecture: matrices of linear layers,
and the 3-D parameters that hold the experts of a layer. Embeddings, the output layer, norms,
biases, convolutions and the states of recurrent layers are none; neither is a vision tower.
"""

from typing import Any

from torch import nn

from merge.io.block_names import is_weight_name

_MATRIX_DIMENSIONS = (2, 3)
_NO_MATRIX = (nn.Embedding, nn.modules.conv._ConvNd)


def block_weights(skeleton: Any) -> set[str]:
    """Names of the parameters that are linear weights inside the decoder blocks.

    Args:
        skeleton: a ``PreTrainedModel``, on any device.
    """
    decoder = skeleton.get_decoder()
    prefix = next(name for name, module in skeleton.named_modules() if module is decoder)
    names = set()
    for place, module in decoder.named_modules(prefix=prefix):
        # A decoder numbers its blocks, and nothing else that has parts of its own.
        inside = place.removeprefix(prefix).split(".")
        if not any(part.isdigit() for part in inside) or _is_other(module):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() in _MATRIX_DIMENSIONS and is_weight_name(name):
                names.add(f"{place}.{name}")
    return names


def _is_other(module: nn.Module) -> bool:
    return isinstance(module, _NO_MATRIX) or "norm" in type(module).__name__.lower()
