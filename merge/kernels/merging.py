"""The compiled loops of the write-back, over raw bit patterns.

Who takes an entry is said before them, in labels (``merge.kernels.sets``). A bit pattern array is
uint16 (bf16, fp16) or uint32 (fp32); a delta's or importance's uint16 is bf16. Every loop releases
the interpreter's lock, so that several threads run at once. No fast-math: a product is rounded
before it is added, and the results are the same on every machine. The loops over entries have no
branches, so that the compiler turns them into vector instructions.
"""

from typing import Any

import numpy as np

from merge.kernels.compiled import compiled
from merge.kernels.conversion import BF16, F16, F32, to_float
from merge.kernels.rounding import fill_draws, narrow, narrow_by_draws

IN_TURN, SUMMED, AVERAGED, ELECTED, BY_SET = range(5)
"""How the taken deltas and the backbone become one value; see ``merge.methods``."""
KEPT_S, KEPT_O, CHANGED_S, CHANGED_O, NONZERO_S, NONZERO_O, ERASED_S, ERASED_O = range(8)
CHANGED, OVERFLOW, COUNTS = range(8, 11)
"""Positions in the counts that ``write_back`` adds to, and how many these are."""
DELTA_S, DELTA_O, TAKEN_S, TAKEN_O = range(4)
"""Rows of the sums of squares that ``write_back`` adds to."""

LANES = 512
"""Sums of squares a row, entry i in sum i mod LANES: more than a vector's latency."""
BLOCK = 1 << 16
"""Slices of a tensor hold a multiple of this many values: retention draws come in fours, sums of
squares are of so many values each, and none of it depends on how a tensor is sliced."""
_ROWS = 2
CHUNK = _ROWS * LANES
"""Entries that write_back goes through at a time, so that its lists stay in the first cache."""
_S, _O = np.uint8(1), np.uint8(2)
"""Flags of the patches that an entry takes; see ``merge.kernels.sets`` for the labels."""


@compiled
def _widen(bits: Any, code: int, values: Any) -> None:
    """The fp32 values of a chunk."""
    if code == BF16:
        for j in range(bits.size):
            values[j] = to_float(bits[j], BF16)
    elif code == F16:
        for j in range(bits.size):
            values[j] = to_float(bits[j], F16)
    else:
        for j in range(bits.size):
            values[j] = to_float(bits[j], F32)


@compiled
def _take(flags: Any, flag: Any, values: Any, taken: Any) -> None:
    """A chunk's values where ``flag`` is set, else 0, into ``taken``."""
    for j in range(values.size):
        taken[j] = values[j] if flags[j] & flag else np.float32(0)


@compiled
def _add_squares(values: Any, sums: Any) -> None:
    """Add the squares of a chunk's values to the sums of their lanes."""
    if values.size == _ROWS * LANES:
        # Each sum is read and written once.
        for lane in range(LANES):
            total = sums[lane]
            for row in range(_ROWS):
                value = np.float64(values[row * LANES + lane])
                total += value * value
            sums[lane] = total
        return
    for begin in range(0, values.size, LANES):
        part = values[begin : begin + LANES]
        for lane in range(part.size):
            value = np.float64(part[lane])
            sums[lane] += value * value


@compiled
def _scale_by_set(labels: Any, own: int, scales: Any, change: Any) -> None:
    """Multiply a chunk's deltas by the scale of the set that each entry is in.

    Args:
        own: the top sets, 1 or 2, of an entry that the patch has for itself.
        scales: fp32 of 3: its own entries', the shared ones', those outside its top set.
    """
    of_own, of_shared, of_rest = scales[0], scales[1], scales[2]
    for j in range(labels.size):
        top = labels[j] >> 2
        scale = of_own if top == own else of_rest
        scale = of_shared if top == 3 else scale
        change[j] = np.float32(scale * change[j])


@compiled
def _combine(
    combination: int, flags: Any, theta: Any, change_s: Any, scale_s: Any, change_o: Any,
    scale_o: Any,
) -> None:  # fmt: skip
    """The fp32 values of a chunk's entries into ``theta``, every operation rounded.

    What is not taken has change 0, except in turn, where it is not added at all.
    """
    if combination == IN_TURN:
        for j in range(flags.size):
            value, flag = theta[j], flags[j]
            sum_s = np.float32(value + np.float32(scale_s * change_s[j]))
            value = sum_s if flag & _S else value
            sum_o = np.float32(value + np.float32(scale_o * change_o[j]))
            theta[j] = sum_o if flag & _O else value
        return
    if combination == SUMMED:
        for j in range(flags.size):
            change = np.float32(scale_s * change_s[j]) + np.float32(scale_o * change_o[j])
            theta[j] = np.float32(theta[j] + np.float32(change))
    elif combination == AVERAGED:
        rest = np.float32(np.float32(np.float32(1) - scale_s) - scale_o)
        for j in range(flags.size):
            tuned_s = np.float32(scale_s * np.float32(theta[j] + change_s[j]))
            tuned_o = np.float32(scale_o * np.float32(theta[j] + change_o[j]))
            theta[j] = np.float32(np.float32(np.float32(rest * theta[j]) + tuned_s) + tuned_o)
    else:
        none = np.float32(0)
        for j in range(flags.size):
            total = np.float32(change_s[j] + change_o[j])
            agree_s, agree_o = change_s[j] * total > none, change_o[j] * total > none
            change = change_s[j] if agree_s else change_o[j]
            change = np.float32(total * np.float32(0.5)) if agree_s and agree_o else change
            moved = np.float32(theta[j] + np.float32(scale_s * change))
            theta[j] = moved if agree_s or agree_o else theta[j]


@compiled
def _mark_moves(
    elected: bool, change_s: Any, scale_s: Any, change_o: Any, scale_o: Any, moves: Any
) -> None:
    """Say of a chunk's entries which patches mean to move them, before any rounding to bits.

    Args:
        moves: uint8, out. Bits 0 and 1: the taken delta is not zero. Bits 2 and 3: it moves the
            entry; not where the scale is 0, both cancel, or the other one's sign is elected.
    """
    none = np.float32(0)
    for j in range(moves.size):
        delta_s, delta_o = change_s[j], change_o[j]
        part_s, part_o = np.float32(scale_s * delta_s), np.float32(scale_o * delta_o)
        total = np.float32(part_s + part_o)
        moves_s = np.float32(part_s * total) > none if elected else part_s != none
        moves_o = np.float32(part_o * total) > none if elected else part_o != none
        moved = np.uint8(moves_s) * np.uint8(4) + np.uint8(moves_o) * np.uint8(8)
        nonzero = np.uint8(delta_s != none) + np.uint8(delta_o != none) * np.uint8(2)
        moves[j] = np.uint8(nonzero + (moved if total != none else np.uint8(0)))


@compiled
def _pair(bits: Any) -> Any:
    """Bit 0 as a 1 in the lower half of a uint32, bit 1 as one in the upper half."""
    return np.uint32(bits & _S) | np.uint32(np.uint32(bits >> 1) << np.uint32(16))


@compiled
def _count(code: int, flags: Any, moves: Any, theta: Any, out: Any, counts: Any) -> None:
    """Count what a chunk took, what of it changed or was erased, and what left the range."""
    magnitude = np.uint32(0x7FFFFFFF) if code == F32 else np.uint32(0x7FFF)
    infinity = np.uint32(0x7C00) if code == F16 else np.uint32(0x7F80)
    infinity = np.uint32(0x7F800000) if code == F32 else infinity
    # Two sums in each: a chunk is shorter than 1 << 16.
    kept, changed, others = np.uint32(0), np.uint32(0), np.uint32(0)
    nonzero, erased = np.uint32(0), np.uint32(0)
    for j in range(flags.size):
        pair = _pair(flags[j])
        differs = out[j] != theta[j]
        outside = np.uint32(out[j] & magnitude) >= infinity
        kept = np.uint32(kept + pair)
        changed = np.uint32(changed + (pair if differs else np.uint32(0)))
        nonzero = np.uint32(nonzero + _pair(moves[j] & np.uint8(3)))
        erased = np.uint32(erased + (np.uint32(0) if differs else _pair(moves[j] >> 2)))
        others = np.uint32(others + np.uint32(differs))
        others = np.uint32(others + (np.uint32(1 << 16) if outside else np.uint32(0)))
    places = ((KEPT_S, kept), (CHANGED_S, changed), (NONZERO_S, nonzero), (ERASED_S, erased))
    for place, pair in (*places, (CHANGED, others)):
        counts[place] += pair & np.uint32(0xFFFF)
        counts[place + 1] += pair >> np.uint32(16)


@compiled
def add_lanes(squares: Any, sums: Any) -> None:
    """Add up the lanes of fp64 [blocks, 4, LANES] in their order, into fp64 [blocks, 4]."""
    for block in range(sums.shape[0]):
        for row in range(sums.shape[1]):
            total = 0.0
            for lane in range(squares.shape[2]):
                total += squares[block, row, lane]
            sums[block, row] = total


@compiled
def write_back(
    theta: Any, theta_code: int, start: int, stream: Any, out: Any, labels: Any, combination: int,
    delta_s: Any, scales_s: Any, delta_o: Any, scales_o: Any, counts: Any, squares: Any,
    values: Any, all_flags: Any, draws: Any,
) -> None:  # fmt: skip
    """Merge one slice: the rounded sum of what its entries take.

    Args:
        theta: the backbone's bit patterns.
        start: flat index of the slice's first entry, a multiple of ``BLOCK``.
        stream: uint32 of 2, of the draws of stochastic rounding; of 0: rounding is to nearest.
        out: the merged bit patterns.
        labels: uint8, of ``merge.kernels.sets.label_sets``.
        combination: IN_TURN to BY_SET.
        scales_s: fp32 factors of the delta, for BY_SET those of ``_scale_by_set``; else the first
            counts.
        counts: int64 of COUNTS; added to.
        squares: fp64 of (blocks, 4, LANES), zeros: of the deltas and of what is taken of them, for
            every ``BLOCK`` entries by themselves, so that their sum is the same in any order.
        values: fp32 of (4, CHUNK), to work in.
        all_flags: uint8 of (2, CHUNK), to work in.
        draws: uint32 of CHUNK, to work in.
    """
    scale_s, scale_o = scales_s[0], scales_o[0]
    by_set = combination == BY_SET
    if by_set:
        # The deltas are scaled by then, and a factor of 1 rounds nothing.
        combination, scale_s, scale_o = IN_TURN, np.float32(1), np.float32(1)
    for begin in range(0, theta.size, CHUNK):
        end = min(begin + CHUNK, theta.size)
        size = end - begin
        sums = squares[begin // BLOCK]
        flags, moves, part = all_flags[0, :size], all_flags[1, :size], labels[begin:end]
        for j in range(size):
            flags[j] = part[j] & np.uint8(3)
        value, delta = values[0, :size], values[1, :size]
        change_s, change_o = values[2, :size], values[3, :size]
        _widen(theta[begin:end], theta_code, value)
        _widen(delta_s[begin:end], BF16 if delta_s.itemsize == 2 else F32, delta)
        _take(flags, _S, delta, change_s)
        _add_squares(delta, sums[DELTA_S])
        _add_squares(change_s, sums[TAKEN_S])
        _widen(delta_o[begin:end], BF16 if delta_o.itemsize == 2 else F32, delta)
        _take(flags, _O, delta, change_o)
        _add_squares(delta, sums[DELTA_O])
        _add_squares(change_o, sums[TAKEN_O])
        if by_set:
            _scale_by_set(part, 1, scales_s, change_s)
            _scale_by_set(part, 2, scales_o, change_o)
        _mark_moves(combination == ELECTED, change_s, scale_s, change_o, scale_o, moves)
        _combine(combination, flags, value, change_s, scale_s, change_o, scale_o)
        if stream.size and theta_code != F32:
            fill_draws(start + begin, stream, draws[: (size + 3) // 4 * 4])
            narrow_by_draws(value, theta_code, flags, theta[begin:end], draws, out[begin:end])
        else:
            narrow(value, theta_code, flags, theta[begin:end], out[begin:end])
        _count(theta_code, flags, moves, theta[begin:end], out[begin:end], counts)
