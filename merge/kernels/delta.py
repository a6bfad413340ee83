"""The compiled loops of the delta file."""

from typing import Any

import numpy as np

from merge.kernels.compiled import compiled


@compiled
def encode_changes(before: Any, after: Any, gaps: Any, differences: Any) -> int:
    """Where two slices differ: gaps in base 128, low digits first, and before XOR after.

    A gap is the number of equal values since the last change; all but a gap's last byte have the
    high bit set.

    Args:
        gaps: uint8, room for 5 bytes a value.
        differences: as ``before``, room for all values.

    Returns:
        How many bytes of ``gaps`` are used, times 2**32, plus how many values of ``differences``.
    """
    used, count, gap = 0, 0, 0
    for i in range(before.size):
        if before[i] == after[i]:
            gap += 1
            continue
        while gap >= 128:
            gaps[used] = np.uint8(gap & 127 | 128)
            used += 1
            gap >>= 7
        gaps[used] = np.uint8(gap)
        used += 1
        differences[count] = before[i] ^ after[i]
        count += 1
        gap = 0
    return used << 32 | count


@compiled
def apply_changes(bits: Any, gaps: Any, differences: Any) -> int:
    """XOR encoded changes into a slice, in place; 0 where they do not fit it, else 1."""
    position, count, gap, shift = 0, 0, 0, 0
    for i in range(gaps.size):
        byte = np.int64(gaps[i])
        gap |= (byte & 127) << shift
        shift += 7
        if byte & 128:
            if shift > 35:
                return 0
            continue
        position += gap
        if position >= bits.size or count >= differences.size:
            return 0
        bits[position] ^= differences[count]
        position, count, gap, shift = position + 1, count + 1, 0, 0
    return 1 if count == differences.size and shift == 0 else 0
