"""How large a patch has become, and how much of it bf16 weights would show."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from merge.io.block_names import block_of
from train.backbone.tensors import BackboneTensors
from train.zero.collectives import compute_device, sum_over_ranks
from train.zero.zero3 import Zero3Model

_GROUPS = 4


@dataclass(frozen=True)
class PatchSize:
    """Sizes of a whole patch."""

    norm: float
    """Euclidean, of all parameters."""
    group_norms: Mapping[str, float]
    """Norms by quarter of the decoder blocks, and of what stands outside them."""
    surviving: float
    """Share of the weights (fraction of 1) that differ from the backbone's once both are bf16."""


def layer_groups(names: list[str]) -> dict[str, str]:
    """The group of every parameter: ``blocks_0-7`` and so on, or ``outside``."""
    places = {name: block[1] for name in names if (block := block_of(name)) is not None}
    count = max(places.values(), default=-1) + 1
    groups = dict.fromkeys(names, "outside")
    for name, place in places.items():
        quarter = place * _GROUPS // count
        first, last = (-(-count * edge // _GROUPS) for edge in (quarter, quarter + 1))
        groups[name] = f"blocks_{first}-{last - 1}"
    return groups


def measure_patch(model: Zero3Model, backbone: BackboneTensors) -> PatchSize:
    """From the fp32 masters, each rank its own partitions (collective)."""
    groups = layer_groups(list(model.parameters))
    names = sorted(set(groups.values()))
    squares = torch.zeros(len(names), dtype=torch.float64, device=compute_device())
    changed = torch.zeros((), dtype=torch.float64, device=compute_device())
    for name, group in groups.items():
        start, stop = model.local_range(name)
        master = model.local_master(name)
        original = backbone.read_flat(name, start, stop, model.dtype).to(master.device)
        squares[names.index(group)] += (master - original).double().square().sum()
        changed += (master.bfloat16() != original.bfloat16()).sum()
    *sums, survivors = sum_over_ranks([*squares.tolist(), changed.item()])
    return PatchSize(
        norm=math.sqrt(sum(sums)),
        group_norms={name: math.sqrt(value) for name, value in zip(names, sums, strict=True)},
        surviving=survivors / model.shape.parameters,
    )
