"""One hash for a model's tensors, however its files are cut."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from merge.common.pools import run_all
from merge.common.progress import Progress
from merge.io.tensor_files import TensorEntry, TensorIndex
from merge.io.tensor_reader import TensorReader

_BLOCK_BYTES = 1 << 20


def tensor_line(entry: TensorEntry, data_hash: str) -> str:
    """What a tensor adds to the model's hash: name, dtype, shape and SHA-256 of its bytes."""
    return f"{entry.name} {entry.dtype} {list(entry.shape)} {data_hash}\n"


def combine_lines(lines: dict[str, str]) -> str:
    """SHA-256 (hexadecimal) over the lines of all tensors in sorted name order."""
    return hashlib.sha256("".join(lines[name] for name in sorted(lines)).encode()).hexdigest()


def model_hash(index: TensorIndex, pool: ThreadPoolExecutor) -> str:
    """The hash of all tensors of a model, which it reads whole, a MiB a thread at a time.

    Raises:
        UserError: a file cannot be read.
    """
    size = sum(entry.bytes for entry in index.values())
    with TensorReader(index) as reader, Progress("hash", size, "B") as progress:

        def hash_one(name: str) -> str:
            line = _hash_tensor(reader, index[name])
            progress.advance(index[name].bytes)
            return line

        lines = run_all(pool, hash_one, index)
    return combine_lines(dict(zip(index, lines, strict=True)))


def _hash_tensor(reader: TensorReader, entry: TensorEntry) -> str:
    digest = hashlib.sha256()
    block = np.empty(min(_BLOCK_BYTES, entry.bytes), np.uint8)
    for start in range(0, entry.bytes, _BLOCK_BYTES):
        part = block[: entry.bytes - start]
        reader.read_bytes(entry.file, part, entry.offset, start)
        digest.update(part.data)
    return tensor_line(entry, digest.hexdigest())
