"""A backbone's fingerprint: quick to take, and different for every other model."""

import hashlib
from pathlib import Path

from merge.tensor_files import TensorEntry, TensorFolder, read_blocks

_BLOCKS = 16
_BLOCK_BYTES = 4096


def backbone_fingerprint(directory: Path) -> str:
    """SHA-256, as hexadecimal, over every tensor's name, dtype, shape and samples of its data.

    Tensors are taken in sorted name order, so the same weights in other shards have the same
    fingerprint. The samples are 16 evenly spaced blocks of 4096 bytes (all of a smaller tensor):
    models that were trained apart differ nearly everywhere.

    Raises:
        UserError: the folder holds no readable safetensors.
    """
    digest = hashlib.sha256()
    for _, entry in sorted(TensorFolder(directory, "model").entries.items()):
        digest.update(f"{entry.name} {entry.dtype} {list(entry.shape)}\n".encode())
        for sample in _samples(entry):
            for _, block in read_blocks(sample, sample.size):
                digest.update(block.data)
    return digest.hexdigest()


def _samples(entry: TensorEntry) -> list[TensorEntry]:
    """The sampled parts of a tensor, as tensors of bytes."""
    if entry.size <= _BLOCKS * _BLOCK_BYTES:
        starts, size = [0], entry.size
    else:
        last = entry.size - _BLOCK_BYTES
        starts, size = [last * block // (_BLOCKS - 1) for block in range(_BLOCKS)], _BLOCK_BYTES
    return [
        TensorEntry(entry.name, "U8", (size,), entry.path, entry.offset + start, size)
        for start in starts
    ]
