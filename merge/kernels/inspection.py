"""The compiled loops that look into patches: sums of units, and top sets of many rates at once.

Keys are scores as bit patterns (see ``merge.engine.selection``): uint32 for fp32, uint16 for bf16.
"""

from typing import Any

import numpy as np

from merge.kernels.compiled import compiled

LANES = 64
COPIES = 4
UNDECIDED = 255
"""In place of a top set's number, where a key's leading digit does not say it."""


@compiled
def _value(key: Any, itemsize: int) -> Any:
    """The score of a key of so many bytes, in fp64."""
    bits = np.uint32(key)
    bits = np.uint32(bits << np.uint32(16)) if itemsize == 2 else bits
    return np.float64(np.uint32(bits & np.uint32(0x7FFFFFFF)).view(np.float32))


@compiled
def add_units(keys: Any, start: int, rows: Any, columns: Any, lanes: Any) -> None:
    """Add a slice's scores to the sums of a matrix's rows and columns (fp64).

    Args:
        start: flat index of the slice's first score.
        lanes: fp64 of LANES, to work in: a row is added up in as many sums, which do not wait for
            each other.
    """
    row, column, begin = start // columns.size, start % columns.size, 0
    while begin < keys.size:
        part = keys[begin : begin + columns.size - column]
        sums = columns[column : column + part.size]
        for j in range(part.size):
            sums[j] += _value(part[j], keys.itemsize)
        lanes[:] = 0
        for first in range(0, part.size, lanes.size):
            run = part[first : first + lanes.size]
            for lane in range(run.size):
                lanes[lane] += _value(run[lane], keys.itemsize)
        for lane in range(lanes.size):
            rows[row] += lanes[lane]
        begin, row, column = begin + part.size, row + 1, 0


@compiled
def count_chosen_digits(keys: Any, slots: Any, counts: Any) -> None:
    """Count the trailing digits of uint32 keys by their leading digit.

    Args:
        slots: for each of 32,768 leading digits its row in ``counts``, or -1.
        counts: int64 [rows, 65536].
    """
    for i in range(keys.size):
        slot = slots[np.uint32(keys[i]) >> np.uint32(16) & np.uint32(0x7FFF)]
        if slot >= 0:
            counts[slot, keys[i] & np.uint32(0xFFFF)] += 1


@compiled
def _level(key: int, thresholds: Any, ties: Any) -> int:
    """The smallest top set that a key is in, by number; one more than the last for none.

    Takes the key's place among the ties of every set whose threshold it is.
    """
    sets = thresholds.size
    if key < thresholds[sets - 1]:
        return sets
    found = sets
    for number in range(sets):
        if key > thresholds[number]:
            return min(found, number)
        if key == thresholds[number] and ties[number] > 0:
            ties[number] -= 1
            found = min(found, number)
    return found


@compiled
def count_levels(
    safety: Any, over_safety: Any, levels: Any, thresholds: Any, ties: Any, counts: Any
) -> None:
    """Count a slice's entries by the smallest top set of either patch that they are in.

    Args:
        levels: uint8 [2, 32768], the smallest top set of all keys of a leading digit, by number;
            ``UNDECIDED`` where a threshold has that digit.
        thresholds: int64 [2, sets], the keys of nested top sets from the smallest on.
        ties: int64 [2, sets], how many keys equal to each still belong to it; used up here.
        counts: int64 [COPIES, sets + 1, sets + 1], safety by over-safety. Entries are counted in
            one copy after the other: most are in the same sets, and an addition to a count takes
            longer than all else.
    """
    safety_mask = np.uint32(0x7FFF) if safety.itemsize == 2 else np.uint32(0x7FFFFFFF)
    over_mask = np.uint32(0x7FFF) if over_safety.itemsize == 2 else np.uint32(0x7FFFFFFF)
    safety_shift = np.uint32(0) if safety.itemsize == 2 else np.uint32(16)
    over_shift = np.uint32(0) if over_safety.itemsize == 2 else np.uint32(16)
    undecided = np.uint8(UNDECIDED)
    for i in range(safety.size):
        key_s, key_o = np.uint32(safety[i] & safety_mask), np.uint32(over_safety[i] & over_mask)
        first = levels[0, key_s >> safety_shift]
        second = levels[1, key_o >> over_shift]
        if first == undecided:
            first = np.uint8(_level(np.int64(key_s), thresholds[0], ties[0]))
        if second == undecided:
            second = np.uint8(_level(np.int64(key_o), thresholds[1], ties[1]))
        counts[i & (COPIES - 1), first, second] += 1
