"""Philox4x32-10, the counter-based generator of all draws; see ``merge.engine.draws``."""

from typing import Any

import numpy as np

from merge.kernels.compiled import compiled


@compiled
def four_draws(block: Any, stream: Any) -> Any:
    """The draws of the entries 4 * block to 4 * block + 3, below 2**32 each, as uint64.

    Args:
        block: uint64.
        stream: uint32 of 2, the key.
    """
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1 = np.uint64(block & low), np.uint64(block >> shift)
    c2, c3 = np.uint64(0), np.uint64(0)
    k0, k1 = np.uint64(stream[0]), np.uint64(stream[1])
    for _ in range(10):
        p0 = np.uint64(np.uint64(0xD2511F53) * c0)
        p1 = np.uint64(np.uint64(0xCD9E8D57) * c2)
        c0 = np.uint64(np.uint64(p1 >> shift) ^ c1 ^ k0)
        c1 = np.uint64(p1 & low)
        c2 = np.uint64(np.uint64(p0 >> shift) ^ c3 ^ k1)
        c3 = np.uint64(p0 & low)
        k0 = np.uint64(np.uint64(k0 + np.uint64(0x9E3779B9)) & low)
        k1 = np.uint64(np.uint64(k1 + np.uint64(0xBB67AE85)) & low)
    return c0, c1, c2, c3
