"""The compiled loops that count bit patterns, for selection and for checks."""

from typing import Any

import numpy as np

from merge.compiled import compiled


@compiled
def largest_magnitude(bits: Any, mask: Any) -> int:
    """The largest ``bits & mask``; with all bits but the sign, it tells whether all are finite."""
    largest = mask & ~mask
    for i in range(bits.size):
        largest = max(largest, bits[i] & mask)
    return largest


@compiled
def count_digits(keys: Any, counts: Any) -> None:
    """Add to ``counts`` (65,536) how often each leading 16-bit digit occurs."""
    shift = np.uint32(0) if keys.itemsize == 2 else np.uint32(16)
    for i in range(keys.size):
        counts[np.uint32(keys[i]) >> shift] += 1


@compiled
def count_low_digits(keys: Any, high: int, counts: Any) -> None:
    """The same for the trailing digit, among uint32 keys whose leading digit is ``high``."""
    for i in range(keys.size):
        if np.uint32(keys[i]) >> np.uint32(16) == high:
            counts[keys[i] & np.uint32(0xFFFF)] += 1


@compiled
def count_equal(keys: Any, value: int) -> int:
    """How many keys are ``value``."""
    count = 0
    for i in range(keys.size):
        count += np.int64(keys[i]) == value
    return count
