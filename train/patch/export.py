"""The patch directory: delta and importance, one group of parameters at a time."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from merge.common.errors import UserError
from merge.common.progress import Progress
from merge.io.patch_directory import PatchWriter, Role
from train.backbone.tensors import BackboneTensors
from train.zero.ranks import World
from train.zero.zero3 import Zero3Model


class NotFiniteError(UserError):
    """A training has ended in values that are NaN or infinite."""


class ExportStoppedError(Exception):
    """A stop was asked for before the whole patch was written; nothing of it is left."""


def export_patch(
    directory: Path,
    role: Role,
    mode: int | None,
    metadata: dict[str, Any],
    model: Zero3Model,
    backbone: BackboneTensors,
    samples: int,
    world: World,
    stop_asked: Callable[[], bool],
) -> None:
    """Write the patch: fp32 masters minus backbone, and the accumulated importance (collective).

    The backbone's tensor is rounded to the computation's dtype first, as loading rounded it: the
    delta then holds the training alone, and not that rounding. Names and shapes are those of the
    backbone's files, which may cut parameters otherwise than the model does. Memory: one parameter
    a rank; on the main rank one group of those that transformers converts together.

    Args:
        mode: of the folder; 0o700 makes its files 0o600.
        samples: whose importance was measured; the model's sums are theirs.
        stop_asked: a collective, asked before every group.

    Raises:
        ExportStoppedError: on every rank, where a stop was asked for.
        NotFiniteError: a value is not, on the main rank; no patch is written.
        UserError: the folder cannot be written.
    """
    writing = (
        PatchWriter(directory, role, metadata, directory_mode=mode)
        if world.is_main
        else nullcontext()
    )
    copies: dict[str, list[str]] = {}
    for copy, original in backbone.map.copies.items():
        copies.setdefault(original, []).append(copy)
    groups = backbone.map.groups
    with Progress("export", len(groups), "groups of tensors") as progress, writing as writer:
        for group in progress.over(groups):
            if stop_asked():
                raise ExportStoppedError
            deltas, importances = {}, {}
            for name in group.parameters:
                master = model.gather_master(name).cpu()
                # DeepSpeed averages over ranks what it scatters; G is the mean over samples.
                importance = model.gather_sum(name).cpu() * (world.size / samples)
                if writer is not None:
                    deltas[name] = master - backbone.read(name, model.dtype).float()
                    importances[name] = importance
            if writer is None:
                continue
            for kind, values, add in (
                ("delta", deltas, writer.add_delta),
                ("importance", importances, writer.add_importance),
            ):
                for name, value in group.to_tensors(values, backbone.map.shapes).items():
                    _refuse_not_finite(role, kind, name, value)
                    # A tied parameter that the files hold twice has changed in both places.
                    for place in (name, *copies.get(name, ())):
                        add(place, _array(value))


def _refuse_not_finite(role: Role, kind: str, name: str, value: Tensor) -> None:
    # Either end of them is NaN where a value is.
    if value.numel() and not all(math.isfinite(end) for end in value.aminmax()):
        raise NotFiniteError(
            f"{role}: the {kind} of '{name}' is not finite after the training, so there is no "
            f"patch; lower {role}.learning_rate (or raise warmup_steps), or set {role}.guards "
            "(max_forget_loss, max_patch_norm) that end it sooner, and run again"
        )


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().numpy(), dtype=np.float32)
