"""Random draws of a merge: which selected entries are kept, and how values are rounded.

The draw of entry i of a tensor depends on the seed, its purpose, the tensor's name and i alone, so
merges do not change with sharding, threads, slices or which other tensors are merged:

    digest  = SHA-256 of the UTF-8 text "SEED/PURPOSE/TENSOR", as "0/safety/NAME"
    key     = digest[0:4], digest[4:8]            little-endian 32-bit words
    counter = i // 4 mod 2**32, i // 4 // 2**32, 0, 0
    x       = word i mod 4 of Philox4x32-10(counter, key)
    u       = x / 2**32

Retention: the purpose is the patch's role, and an entry is kept iff u < p. Stochastic rounding: the
purpose is "rounding", see ``merge.kernels.rounding``.

Philox4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import hashlib
import math
from typing import Literal

import numpy as np

from merge.io.patch_directory import Role

Purpose = Role | Literal["rounding"]


def draw_key(seed: int, purpose: Purpose, tensor: str) -> np.ndarray:
    """The key of a tensor's draws: two uint32."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{tensor}".encode()).digest()
    return np.frombuffer(digest[:8], dtype="<u4").astype(np.uint32)


def retention_limit(rate: float) -> np.uint64:
    """The smallest integer x with x / 2**32 >= rate: draws below it are kept."""
    return np.uint64(math.ceil(rate * 2.0**32))
