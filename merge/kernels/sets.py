"""The compiled loops that say which patch takes which entry: top sets, and random retention.

It shares nothing with ``merge.kernels.merging`` but the labels that it hands over. An entry's label
is a byte: bits 0 and 1 say whether the safety and the over-safety patch take it, bits 2 and 3
whether it is in their top sets.
"""

from typing import Any

import numpy as np

from merge.kernels.compiled import compiled
from merge.kernels.philox import four_draws

TOP_S, TOP_O, OVERLAP = range(3)
"""Positions in the counts that ``label_sets`` adds to."""
_CHUNK = 2048
"""Entries that are gone through at a time, so that their labels stay in the first cache."""
_S, _O = np.uint8(1), np.uint8(2)
"""Flags of the patches."""


@compiled
def _mark_top(keys: Any, threshold: int, ties: int, flag: Any, flags: Any) -> int:
    """Add ``flag`` to the flags of a chunk's entries in a top set; how many ties are left.

    Keys are magnitudes: their sign bit is left out, so that a negative zero is a zero.
    """
    magnitude = np.uint32(0x7FFF) if keys.itemsize == 2 else np.uint32(0x7FFFFFFF)
    least = np.uint32(min(threshold, 0xFFFFFFFF))
    equal = 0
    if ties > 0:
        for j in range(keys.size):
            equal += np.uint32(keys[j] & magnitude) == least
    if ties == 0:
        for j in range(keys.size):
            flags[j] |= np.uint8(np.uint32(keys[j] & magnitude) > least) * flag
        return 0
    if ties >= equal:
        for j in range(keys.size):
            flags[j] |= np.uint8(np.uint32(keys[j] & magnitude) >= least) * flag
        return ties - equal
    # The one chunk in which the ties run out.
    for j in range(keys.size):
        key = np.uint32(keys[j] & magnitude)
        tie = key == least and ties > 0
        ties -= tie
        flags[j] |= np.uint8(key > least or tie) * flag
    return 0


@compiled
def _take(taken: Any, flags: Any, counts: Any) -> None:
    """Turn the flags of top sets into labels, and count the sets."""
    top_s, top_o, overlap = 0, 0, 0
    for j in range(flags.size):
        top_s += flags[j] & _S
        top_o += flags[j] >> 1
        overlap += flags[j] == 3
    counts[TOP_S] += top_s
    counts[TOP_O] += top_o
    counts[OVERLAP] += overlap
    in_none, in_s, in_o, in_both = taken[0], taken[1], taken[2], taken[3]
    for j in range(flags.size):
        top = flags[j]
        wanted = in_s if top == 1 else in_none
        wanted = in_o if top == 2 else wanted
        wanted = in_both if top == 3 else wanted
        flags[j] = np.uint8(wanted | np.uint8(top << np.uint8(2)))


@compiled
def _retain(packed: Any, first: int, stream: Any, limit: Any, flag: int) -> None:
    """Clear ``flag`` of those entries of a chunk whose draw is not below ``limit``.

    All draws are made, wanted or not: that takes no more time than picking those that are.

    Args:
        packed: the flags of four entries in each uint32, the first in its lowest byte.
        first: flat index of the chunk's first entry, a multiple of 4.
    """
    kept = np.uint64(flag)
    for j in range(packed.size):
        c0, c1, c2, c3 = four_draws(np.uint64(first // 4 + j), stream)
        d0 = kept if c0 >= limit else np.uint64(0)
        d1 = np.uint64(kept << np.uint64(8)) if c1 >= limit else np.uint64(0)
        d2 = np.uint64(kept << np.uint64(16)) if c2 >= limit else np.uint64(0)
        d3 = np.uint64(kept << np.uint64(24)) if c3 >= limit else np.uint64(0)
        packed[j] &= np.uint32(~(d0 | d1 | d2 | d3))


@compiled
def label_sets(
    packed: Any, size: int, start: int, taken: Any,
    keys_s: Any, threshold_s: int, stream_s: Any, limit_s: Any,
    keys_o: Any, threshold_o: int, stream_o: Any, limit_o: Any,
    ties: Any, counts: Any,
) -> None:  # fmt: skip
    """Label the entries of one slice: who is in which top set, who is taken and kept.

    Args:
        packed: the labels of four entries in each uint32, the first in its lowest byte.
        size: how many entries the slice has.
        start: flat index of the first, a multiple of ``merge.kernels.merging.BLOCK``.
        taken: uint8 of 4, flags of the patches that take an entry in no top set, in the safety
            patch's, in the over-safety patch's, in both.
        keys_s: scores as bit patterns; none where the method has no top sets.
        threshold_s: keys above it are in the top set, and the first ``ties[0]`` equal to it.
        stream_s, limit_s: of the retention draws.
        ties: int64 of 2, how many equal keys are still to be taken; counted down.
        counts: int64 of 3; added to.
    """
    everything = np.uint64(1 << 32)
    below_s, below_o = np.uint64(limit_s), np.uint64(limit_o)
    labels = packed.view(np.uint8)
    for begin in range(0, size, _CHUNK):
        end = min(begin + _CHUNK, size)
        flags = labels[begin:end]
        if keys_s.size:
            flags[:] = 0
            ties[0] = _mark_top(keys_s[begin:end], threshold_s, ties[0], _S, flags)
            ties[1] = _mark_top(keys_o[begin:end], threshold_o, ties[1], _O, flags)
            _take(taken, flags, counts)
        else:
            flags[:] = taken[0]
        fours = packed[begin // 4 : (end + 3) // 4]
        if below_s != everything:
            _retain(fours, start + begin, stream_s, below_s, _S)
        if below_o != everything:
            _retain(fours, start + begin, stream_o, below_o, _O)
