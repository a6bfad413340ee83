"""The patch directory: delta and importance, one parameter at a time."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from merge.patch_directory import PatchWriter, Role
from train.backbone import BackboneTensors
from train.world import World
from train.zero3 import Zero3Model


def export_patch(
    directory: Path,
    role: Role,
    mode: int | None,
    metadata: dict[str, Any],
    model: Zero3Model,
    backbone: BackboneTensors,
    samples: int,
    world: World,
) -> None:
    """Write the patch: fp32 masters minus backbone, and the accumulated importance (collective).

    The backbone's tensor is rounded to the computation's dtype first, as loading rounded it: the
    delta then holds the training alone, and not that rounding. Memory: one parameter a rank.

    Args:
        mode: of the folder; 0o700 makes its files 0o600.
        samples: whose importance was measured; the model's sums are theirs.
    """
    writing = (
        PatchWriter(directory, role, metadata, directory_mode=mode)
        if world.is_main
        else nullcontext()
    )
    with writing as writer:
        for name in tqdm(model.parameters, desc="export", disable=None if world.is_main else True):
            master = model.gather_master(name).cpu()
            # DeepSpeed averages over ranks what it scatters; G is the mean over samples.
            importance = model.gather_sum(name).cpu() * (world.size / samples)
            if writer is not None:
                original = backbone.read(name, model.dtype).float()
                writer.add_delta(name, _array(master - original))
                writer.add_importance(name, _array(importance))


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().numpy(), dtype=np.float32)
