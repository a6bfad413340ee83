"""A quick fingerprint of a backbone, so that a patch made for another one is refused."""

import hashlib
from pathlib import Path

import numpy as np

from merge.io.tensor_files import TensorIndex, read_index
from merge.io.tensor_reader import TensorReader

_BLOCKS = 16
_BLOCK_BYTES = 4096


def backbone_fingerprint(directory: Path) -> str:
    """SHA-256 (hexadecimal) over a sample of every tensor; the same however the files are cut.

    Tensors in sorted name order, each as the line ``name dtype shape`` and then its data: all of
    it up to 65,536 bytes, else 16 evenly spaced blocks of 4096 bytes, the first block at the
    start and the last at the end. Reads at most 64 KiB a tensor.

    Raises:
        UserError: the folder holds no readable safetensors model.
    """
    return index_fingerprint(read_index(directory, "model"))


def index_fingerprint(index: TensorIndex) -> str:
    """``backbone_fingerprint`` of an index that was already read."""
    digest = hashlib.sha256()
    block = np.empty(_BLOCK_BYTES, np.uint8)
    with TensorReader(index) as reader:
        for name in sorted(index):
            entry = index[name]
            digest.update(f"{name} {entry.dtype} {list(entry.shape)}\n".encode())
            last = entry.bytes - _BLOCK_BYTES
            if entry.bytes <= _BLOCKS * _BLOCK_BYTES:
                whole = np.empty(entry.bytes, np.uint8)
                reader.read_bytes(entry.file, whole, entry.offset)
                digest.update(whole.data)
                continue
            for number in range(_BLOCKS):
                reader.read_bytes(entry.file, block, entry.offset + last * number // (_BLOCKS - 1))
                digest.update(block.data)
    return digest.hexdigest()
