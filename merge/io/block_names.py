"""What a tensor's name says of its place: the decoder block that it belongs to, and its module."""

import re
from collections.abc import Iterable

_BLOCK = re.compile(r"(?:.*?\.)??(\d+)(?=\.)")


def block_of(name: str) -> tuple[str, int] | None:
    """The first numbered module in a name: its own name and its number.

    ``model.layers.3.mlp.experts.5.w1.weight`` gives ``("model.layers.3", 3)``; a tensor outside
    the blocks gives None.
    """
    match = _BLOCK.match(name)
    return None if match is None else (match[0], int(match[1]))


def blocks_of(names: Iterable[str]) -> list[str]:
    """The numbered modules that tensors of these names belong to, in the order of their numbers."""
    places = {place for name in names if (place := block_of(name)) is not None}
    return [block for block, _ in sorted(places, key=lambda place: (place[1], place[0]))]


def is_weight_name(name: str) -> bool:
    """Whether a parameter's own name, without its module's, is that of a weight.

    Experts keep several in one module: ``gate_up_proj``, or ``w1``, ``v1`` and ``w2``.
    """
    return name in {"w1", "v1", "w2", "w3"} or name.endswith(("weight", "proj"))


def layer_and_module(name: str) -> tuple[int, str] | None:
    """The decoder layer of a weight and its kind of module; None for any other tensor."""
    block = block_of(name)
    *modules, last = name.split(".")
    if block is None or not is_weight_name(last):
        return None
    return block[1], modules[-1] if last == "weight" else last
