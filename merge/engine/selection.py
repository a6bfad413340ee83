"""Exact top sets by counting, without sorting.

Keys are the bit patterns of magnitudes, which have the order of their values; a sign bit is left
out. One pass counts the leading 15 bits of every key; where keys are 32 bits, a second pass counts
the trailing 16 bits of those that share the threshold's leading bits.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from merge.kernels import counting as count_kernels

Keys = Iterable[np.ndarray]
"""Slices of uint16 or uint32 keys, in order; made anew for each pass."""


@dataclass(frozen=True)
class Threshold:
    """A top set: all keys above ``key``, and the first ``ties`` keys equal to it."""

    key: int
    ties: int


NOTHING = Threshold(1 << 32, 0)


def top_count(rate: float, size: int) -> int:
    """k = int(rate * n), in double precision."""
    return int(rate * size)


def find_threshold(slices: Callable[[], Keys], count: int, wide: bool) -> Threshold:
    """The threshold of the ``count`` largest keys, ties to the lowest position.

    Args:
        slices: gives all keys, slice by slice; called once a pass.
        wide: whether keys are uint32.
    """
    if count == 0:
        return NOTHING
    digits = np.zeros(1 << 15, np.int64)
    for keys in slices():
        count_kernels.count_digits(keys, digits)
    high, rest = find_digit(digits, count)
    if not wide:
        return Threshold(high, rest)
    digits = np.zeros(1 << 16, np.int64)
    for keys in slices():
        count_kernels.count_low_digits(keys, high, digits)
    low, rest = find_digit(digits, rest)
    return Threshold(high << 16 | low, rest)


def find_digit(counts: np.ndarray, wanted: int) -> tuple[int, int]:
    """The digit in which the ``wanted``-th largest key lies, and how many it must give.

    Args:
        counts: how many keys have each digit.
    """
    from_above = np.cumsum(counts[::-1])
    position = int(np.searchsorted(from_above, wanted))
    above = int(from_above[position - 1]) if position else 0
    return len(counts) - 1 - position, wanted - above


def deal_ties(threshold: Threshold, equal: dict[str, int]) -> dict[str, Threshold]:
    """Split one threshold's ties over tensors: sorted name order, then flat index.

    Args:
        equal: how many keys of each tensor equal the threshold.
    """
    dealt, left = {}, threshold.ties
    for name in sorted(equal):
        taken = min(left, equal[name])
        dealt[name] = Threshold(threshold.key, taken)
        left -= taken
    return dealt
