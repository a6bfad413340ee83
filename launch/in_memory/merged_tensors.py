"""The tensors of a merge in memory, as PyTorch reads them."""

from collections.abc import Iterator

import torch

from merge.in_memory import LoadedInputs
from merge.settings import MergeSettings
from train.backbone.tensors import TORCH_DTYPES


def merged_tensors(
    loaded: LoadedInputs, settings: MergeSettings | None
) -> Iterator[tuple[str, torch.Tensor]]:
    """The covered tensors of a merge, one at a time, by their names in the backbone's files.

    Args:
        settings: ``None`` gives the backbone's own values.

    Yields:
        Name and values, on the CPU, in the backbone's shape and dtype.
    """
    merged = loaded.backbone() if settings is None else loaded.merge(settings)
    for name, bits in merged:
        dtype = TORCH_DTYPES[loaded.inputs.backbone[name].dtype]
        yield name, torch.from_numpy(bits).view(dtype)
