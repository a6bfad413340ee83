"""Small model folders and patches for the tests of merge/, written with the safetensors library."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file


def write_tensors(
    directory: Path, stem: str, tensors: dict[str, torch.Tensor], shards: int = 1
) -> Path:
    """Write ``tensors`` as one file, or dealt out to ``shards`` files with an index."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if shards == 1:
        save_file(tensors, directory / f"{stem}.safetensors", {"format": "pt"})
        return directory
    placement = {}
    for number in range(shards):
        file = f"{stem}-{number + 1:05d}-of-{shards:05d}.safetensors"
        names = list(tensors)[number::shards]
        save_file({name: tensors[name] for name in names}, directory / file, {"format": "pt"})
        placement |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": placement}
    (directory / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    return directory


def write_patch(
    directory: Path,
    role: str,
    delta: dict[str, torch.Tensor],
    importance: dict[str, torch.Tensor],
    shards: int = 1,
    **record: Any,
) -> Path:
    """A patch directory as a person would make it by hand."""
    write_tensors(directory, "delta", delta, shards)
    write_tensors(directory, "importance", importance, shards)
    (directory / "patch.json").write_text(json.dumps({"format": 1, "role": role, **record}))
    return directory
