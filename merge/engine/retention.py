"""Random retention: which selected entries of a patch are kept.

The draw of entry i of a tensor depends on the seed, the patch, the tensor's name and i alone, so
masks do not change with sharding, threads, slices or which other tensors are merged:

    digest  = SHA-256 of the UTF-8 text "SEED/PATCH/TENSOR", as "0/safety/NAME"
    key     = digest[0:4], digest[4:8]            little-endian 32-bit words
    counter = i // 4 mod 2**32, i // 4 // 2**32, 0, 0
    x       = word i mod 4 of Philox4x32-10(counter, key)
    u       = x / 2**32,   and the entry is kept iff u < p

Philox4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import hashlib
import math

import numpy as np


def retention_key(seed: int, patch: str, tensor: str) -> np.ndarray:
    """The key of a tensor's draws: two uint32."""
    digest = hashlib.sha256(f"{seed}/{patch}/{tensor}".encode()).digest()
    return np.frombuffer(digest[:8], dtype="<u4").astype(np.uint32)


def retention_limit(rate: float) -> np.uint64:
    """The smallest integer x with x / 2**32 >= rate: draws below it are kept."""
    return np.uint64(math.ceil(rate * 2.0**32))
