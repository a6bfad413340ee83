"""Which output file holds which tensor, and where."""

import os
from dataclasses import dataclass
from pathlib import Path

from merge.common.errors import UserError
from merge.io.tensor_files import INDEX_SUFFIX, TensorEntry, TensorIndex
from merge.io.tensor_stream import header_bytes


@dataclass(frozen=True)
class OutputShard:
    """One output file, known whole before a byte of it is written."""

    name: str
    header: bytes
    offsets: dict[str, int]
    """Tensor name -> position in the file."""
    size: int
    """Bytes of the file."""


def plan_shards(backbone: TensorIndex, max_shard_size: int | None) -> list[OutputShard]:
    """The output's files: cut as the backbone's, headers included, or at ``max_shard_size``."""
    if max_shard_size is None:
        return [_same_shard(backbone, file) for file in backbone.files]
    groups: list[list[TensorEntry]] = [[]]
    room = max_shard_size
    for entry in backbone.values():
        if entry.bytes > room and groups[-1]:
            groups.append([])
            room = max_shard_size
        groups[-1].append(entry)
        room -= entry.bytes
    count = len(groups)
    return [
        _new_shard(
            "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors",
            group,
            backbone.metadata,
        )
        for number, group in enumerate(groups, start=1)
    ]


def shard_index(backbone: TensorIndex, shards: list[OutputShard]) -> dict[str, object] | None:
    """The content of the output's index file; None for a single file."""
    if len(shards) == 1 and shards[0].name == "model.safetensors":
        return None
    return {
        "metadata": {"total_size": sum(entry.bytes for entry in backbone.values())},
        "weight_map": {name: shard.name for shard in shards for name in shard.offsets},
    }


INDEX_NAME = f"model{INDEX_SUFFIX}"


def _same_shard(backbone: TensorIndex, file: Path) -> OutputShard:
    offsets = {name: entry.offset for name, entry in backbone.items() if entry.file == file}
    try:
        with file.open("rb") as stream:
            header = stream.read(min(offsets.values()))
            size = os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    return OutputShard(file.name, header, offsets, size)


def _new_shard(name: str, entries: list[TensorEntry], metadata: dict[str, str]) -> OutputShard:
    tensors: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
    position = 0
    for entry in entries:
        tensors[entry.name] = (entry.dtype, entry.shape, position, position + entry.bytes)
        position += entry.bytes
    header = header_bytes(tensors, metadata or {"format": "pt"})
    offsets = {tensor: len(header) + place[2] for tensor, place in tensors.items()}
    return OutputShard(name, header, offsets, len(header) + position)
