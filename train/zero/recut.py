"""A ZeRO-3 checkpoint cut anew for another number of ranks.

DeepSpeed loads its checkpoints on as many ranks as wrote them. Its own way to other numbers,
``ds_to_universal``, writes the whole checkpoint twice more, and then every rank reads the whole
share of the first writing rank (in 0.19.8: ``_save_optimizer_state_stage3``). It needs Adam's
moments, which SGD has not, and gives all groups of parameters one tensor as their count of steps,
so that Adam counts each step once a group. Here a rank reads, memory-mapped, the elements that it
will own, and nothing is written.
"""

import copy
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def recut(
    folder: Path, written_by: int, groups: Sequence[Sequence[str]], rank: int, ranks: int
) -> dict[str, Any]:
    """One rank's optimizer state of a checkpoint, in the form in which DeepSpeed saves it.

    A rank's file holds, for each group of parameters, one flat tensor: its partitions of the
    group's parameters one after another, each the ``rank``-th of equal parts, the last one padded.

    Args:
        folder: of one checkpoint.
        written_by: how many ranks wrote it.
        groups: names of the parameters in DeepSpeed's sub-groups of this training, in its order.
    """
    writers = [
        _read(folder, f"zero_pp_rank_{writer}_mp_rank_00_optim_states.pt")["optimizer_state_dict"]
        for writer in range(written_by)
    ]
    shapes = _read(folder, "zero_pp_rank_0_mp_rank_00_model_states.pt")["param_shapes"]
    places = _places(shapes, written_by)

    def share(name: str, state: str) -> Tensor:
        group, offset, size = places[name]
        parts = [_flat(writer, group, state) for writer in writers]
        return cut(parts, offset, size, rank, ranks)

    first = writers[0]["optimizer_state_dict"]
    # Adam has two moments and a count of steps; SGD nothing, or the sums of importance.
    known = first["state"].get(0, {})
    moments = [state for state in known if state != "step"]
    (options,) = first["param_groups"]
    flat = {
        state: [torch.cat([share(name, state) for name in names]) for names in groups]
        for state in ("fp32", *moments)
    }
    states = {
        number: {state: flat[state][number] for state in moments}
        | {state: copy.deepcopy(known[state]) for state in known if state not in moments}
        for number in range(len(groups))
    }
    return {
        **{name: writers[0][name] for name in ("loss_scaler", "dynamic_loss_scale", "overflow")},
        "fp32_flat_groups": flat["fp32"],
        "optimizer_state_dict": {
            "state": states if known else {},
            "param_groups": [{**options, "params": list(range(len(groups)))}],
        },
    }


def _read(folder: Path, name: str) -> Any:
    """A file of a checkpoint; under bf16 some have a prefix."""
    path = folder / name
    path = path if path.exists() else folder / f"bf16_{name}"
    # DeepSpeed pickles its loss scaler with the tensors; these files are this training's own.
    return torch.load(path, map_location="cpu", mmap=True, weights_only=False)


def _places(
    shapes: Sequence[Mapping[str, torch.Size]], written_by: int
) -> dict[str, tuple[int, int, int]]:
    """Group, start of the partition in the group, and whole size of every parameter."""
    places = {}
    for group, parameters in enumerate(shapes):
        offset = 0
        for name, shape in parameters.items():
            places[name] = (group, offset, shape.numel())
            offset += ceil(shape.numel() / written_by)
    return places


def _flat(writer: Mapping[str, Any], group: int, state: str) -> Tensor:
    if state == "fp32":
        return writer["fp32_flat_groups"][group]
    return writer["optimizer_state_dict"]["state"][group][state]


def cut(parts: Sequence[Any], offset: int, size: int, rank: int, ranks: int) -> Tensor:
    """The partition of one parameter that a rank of ``ranks`` owns, padded with zeros.

    Args:
        parts: the group's flat tensor of each rank that wrote it, or what gives its slices; the
            parameter's own partitions start at ``offset``.
        size: of the whole parameter.
    """
    old, new = ceil(size / len(parts)), ceil(size / ranks)
    values = torch.zeros(new, dtype=torch.float32)
    start, stop = rank * new, min((rank + 1) * new, size)
    position = start
    while position < stop:
        writer, inner = divmod(position, old)
        count = min(stop - position, old - inner)
        piece = parts[writer][offset + inner : offset + inner + count]
        values[position - start : position - start + count] = piece
        position += count
    return values
