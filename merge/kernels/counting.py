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
def count_both_digits(keys: Any, near: int, leading: Any, trailing: Any) -> None:
    """Count the leading digits of uint32 keys, and the trailing ones of some of them.

    Args:
        near: the leading digit whose trailing ones are counted in row 0 of ``trailing``.
        leading: int64 of 32,768; added to.
        trailing: uint32 [rows, 65536]; added to.
    """
    for i in range(keys.size):
        digit = np.uint32(keys[i]) >> np.uint32(16) & np.uint32(0x7FFF)
        leading[digit] += 1
        row = np.int64(digit) - near
        if row >= 0 and row < trailing.shape[0]:
            trailing[row, keys[i] & np.uint32(0xFFFF)] += np.uint32(1)


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
