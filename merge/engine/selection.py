"""Exact top sets by counting, without sorting.

Keys are the bit patterns of magnitudes, which have the order of their values; a sign bit is left
out. One pass counts the leading 15 bits of every key. Where keys are 32 bits, it also counts the
trailing 16 bits of those whose leading bits are near the threshold's, as a sample guesses it; a
second pass is needed where the guess was wrong.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from merge.kernels import counting as count_kernels

Keys = Iterable[np.ndarray]
"""Slices of uint16 or uint32 keys, in order; made anew for each pass."""
_NEAR = 8
"""Leading digits whose trailing ones are counted at once: 6 % of a value, to either side 3 %."""
_LOW = 1 << 16


@dataclass(frozen=True)
class Threshold:
    """A top set: all keys above ``key``, and the first ``ties`` keys equal to it."""

    key: int
    ties: int
    equal: Mapping[str, int] | None = field(default=None, compare=False)
    """By tensor, how many keys equal ``key``, where that is known."""


NOTHING = Threshold(1 << 32, 0)


def top_count(rate: float, size: int) -> int:
    """k = int(rate * n), in double precision."""
    return int(rate * size)


class DigitCounts:
    """How often each digit occurs among keys.

    Args:
        near: the first of ``_NEAR`` leading digits whose trailing digits are counted as well; None
            counts no trailing ones.
    """

    def __init__(self, near: int | None) -> None:
        self.near = near
        self.leading = np.zeros(1 << 15, np.int64)
        self.trailing = np.zeros((0 if near is None else _NEAR, _LOW), np.uint32)

    def add(self, keys: np.ndarray) -> None:
        """Count a slice's keys."""
        if self.near is None:
            count_kernels.count_digits(keys, self.leading)
        else:
            count_kernels.count_both_digits(keys, self.near, self.leading, self.trailing)

    def merge(self, other: "DigitCounts") -> None:
        """Add the counts of other keys."""
        self.leading += other.leading
        self.trailing += other.trailing

    def threshold(self, count: int, wide: bool) -> Threshold | None:
        """The threshold of the ``count`` largest keys; None where trailing digits are wanting."""
        high, rest = find_digit(self.leading, count)
        if not wide:
            return Threshold(high, rest)
        if self.near is None or not 0 <= high - self.near < _NEAR:
            return None
        low, rest = find_digit(self.trailing[high - self.near], rest)
        return Threshold(high << 16 | low, rest)


def guess_near(sample: np.ndarray, share: float) -> int | None:
    """Where to count trailing digits, so that the top ``share`` of the keys ends there.

    Args:
        sample: some uint32 keys.
    """
    if not sample.size:
        return None
    ordered = np.sort(sample & np.uint32(0x7FFFFFFF))
    place = int(ordered[min(int((1 - share) * ordered.size), ordered.size - 1)])
    return max((place >> 16) - _NEAR // 2, 0)


def find_trailing(slices: Callable[[], Keys], counts: DigitCounts, count: int) -> Threshold:
    """The threshold of the ``count`` largest of uint32 keys, by a second pass.

    Args:
        slices: gives all keys, slice by slice.
        counts: of the first pass.
    """
    high, rest = find_digit(counts.leading, count)
    digits = np.zeros(_LOW, np.int64)
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


def deal_ties(threshold: Threshold, equal: Mapping[str, int]) -> dict[str, Threshold]:
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
