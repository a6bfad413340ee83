"""The compiled loops that count bit patterns, for selection."""

from typing import Any

import numpy as np

from merge.kernels.compiled import compiled


@compiled
def count_digits(keys: Any, counts: Any) -> None:
    """Add to ``counts`` (32,768) how often each leading digit occurs, the sign bit left out."""
    shift = np.uint32(0) if keys.itemsize == 2 else np.uint32(16)
    for i in range(keys.size):
        counts[np.uint32(keys[i]) >> shift & np.uint32(0x7FFF)] += 1


@compiled
def count_low_digits(keys: Any, high: int, counts: Any) -> None:
    """Add to ``counts`` (65,536) the trailing digits of uint32 keys of leading digit ``high``."""
    for i in range(keys.size):
        if np.uint32(keys[i]) >> np.uint32(16) & np.uint32(0x7FFF) == high:
            counts[keys[i] & np.uint32(0xFFFF)] += 1


@compiled
def count_equal(keys: Any, value: int) -> int:
    """How many keys are ``value``, the sign bit left out."""
    magnitude = np.uint32(0x7FFF) if keys.itemsize == 2 else np.uint32(0x7FFFFFFF)
    count = 0
    for i in range(keys.size):
        count += np.uint32(keys[i] & magnitude) == value
    return count
