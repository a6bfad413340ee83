"""The compiled loops that look into patches: sums of units, and top sets of many rates at once.

Keys are scores as bit patterns (see ``merge.engine.selection``): uint32 for fp32, uint16 for bf16.
"""

from typing import Any

import numpy as np

from merge.kernels.compiled import compiled


@compiled
def add_units(keys: Any, start: int, rows: Any, columns: Any) -> None:
    """Add a slice's scores to the sums of a matrix's rows and columns (fp64).

    Args:
        start: flat index of the slice's first score.
    """
    row, column = start // columns.size, start % columns.size
    for i in range(keys.size):
        bits = np.uint32(keys[i])
        if keys.itemsize == 2:
            bits = np.uint32(bits << np.uint32(16))
        value = np.float64(np.uint32(bits & np.uint32(0x7FFFFFFF)).view(np.float32))
        rows[row] += value
        columns[column] += value
        column += 1
        if column == columns.size:
            row, column = row + 1, 0


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
def count_levels(safety: Any, over_safety: Any, thresholds: Any, ties: Any, levels: Any) -> None:
    """Count a slice's entries by the smallest top set of either patch that they are in.

    Args:
        thresholds: int64 [2, sets], the keys of nested top sets from the smallest on.
        ties: int64 [2, sets], how many keys equal to each still belong to it; used up here.
        levels: int64 [sets + 1, sets + 1], safety by over-safety.
    """
    safety_mask = np.uint32(0x7FFF) if safety.itemsize == 2 else np.uint32(0x7FFFFFFF)
    over_mask = np.uint32(0x7FFF) if over_safety.itemsize == 2 else np.uint32(0x7FFFFFFF)
    for i in range(safety.size):
        first = _level(np.int64(safety[i] & safety_mask), thresholds[0], ties[0])
        second = _level(np.int64(over_safety[i] & over_mask), thresholds[1], ties[1])
        levels[first, second] += 1
