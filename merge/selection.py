"""Top sets: the k most important entries, exactly, without sorting.

Scores are float32 and not negative, so their bit patterns order as they do. Two histogram passes,
one over the upper and one over the lower 16 bits, find the k-th largest pattern.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numba import njit

_BUCKETS = 1 << 16


@dataclass(frozen=True)
class Threshold:
    """A top set: every entry above ``bits``, and the first ``ties`` entries equal to it."""

    bits: int
    ties: int


NOTHING = Threshold(bits=(1 << 32) - 1, ties=0)
"""No score reaches it: the top set of k = 0."""


def top_count(rate: float, elements: int) -> int:
    """k = int(rate x n), in double precision and truncated."""
    return int(rate * elements)


def find_threshold(parts: Callable[[], Iterable[np.ndarray]], count: int) -> Threshold:
    """The threshold of the ``count`` largest of all scores, ties going to the first in order.

    Args:
        parts: gives the scores' bit patterns (uint32) in pieces, the same at each of two calls,
            so that scores that do not fit into memory can be made twice.
    """
    if count <= 0:
        return NOTHING
    upper = np.zeros(_BUCKETS, np.int64)
    for part in parts():
        _count_upper(part, upper)
    high, above = _bucket_of(upper, count)
    lower = np.zeros(_BUCKETS, np.int64)
    for part in parts():
        _count_lower(part, high, lower)
    low, above_in_bucket = _bucket_of(lower, count - above)
    return Threshold(bits=high << 16 | low, ties=count - above - above_in_bucket)


def _bucket_of(histogram: np.ndarray, count: int) -> tuple[int, int]:
    """The bucket that holds the ``count``-th largest, and how many entries lie above it."""
    from_above = np.cumsum(histogram[::-1])
    place = int(np.searchsorted(from_above, count))
    return _BUCKETS - 1 - place, int(from_above[place] - histogram[::-1][place])


def mark_top(
    bits: np.ndarray, threshold: Threshold, ties_before: int = 0
) -> tuple[np.ndarray, int]:
    """Which entries are in the top set.

    Args:
        bits: the scores' bit patterns, uint32.
        ties_before: entries equal to the threshold in the parts before this one.

    Returns:
        A bool array, and ``ties_before`` for the next part.
    """
    marked = np.empty(bits.shape, np.bool_)
    ties = _mark(bits, threshold.bits, threshold.ties, ties_before, marked)
    return marked, ties


@njit(cache=True, nogil=True)
def _count_upper(bits: np.ndarray, histogram: np.ndarray) -> None:
    for value in bits:
        histogram[value >> 16] += 1


@njit(cache=True, nogil=True)
def _count_lower(bits: np.ndarray, high: int, histogram: np.ndarray) -> None:
    for value in bits:
        if value >> 16 == high:
            histogram[value & 0xFFFF] += 1


@njit(cache=True, nogil=True)
def _mark(bits: np.ndarray, threshold: int, wanted: int, ties: int, marked: np.ndarray) -> int:
    for place in range(bits.size):
        value = bits[place]
        marked[place] = value > threshold
        if value == threshold:
            marked[place] = ties < wanted
            ties += 1
    return ties
