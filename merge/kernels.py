"""The compiled loops over raw bit patterns.

All of them stand in this file because numba's cache notices a change of this file only. A bit
pattern array is uint16 (bf16, fp16) or uint32 (fp32); a delta's or importance's uint16 is bf16.
Every loop releases the interpreter's lock, so that several threads run at once. No fast-math: a
product is rounded before it is added, and the results are the same on every machine.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

BF16, F16, F32 = 0, 1, 2
DIFFERENCE, INTERSECTION, ALL, FIRST, SECOND = 0, 1, 2, 3, 4
WEIGHT, DELTA = 0, 1
TOP_S, TOP_O, OVERLAP, KEPT_S, KEPT_O, CHANGED_S, CHANGED_O, CHANGED, OVERFLOW = range(9)
"""Positions in the counts that ``write_back`` adds to."""

BLOCK = 1 << 16
"""Slices of a tensor hold a multiple of this many values."""
_NORM_LANES = 16


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at first use; keep the result on disk where there is a place for it."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder that numba can write its cache to
        return numba.njit(nogil=True)(function)


@_compiled
def _to_float(bits: Any, code: int) -> Any:
    """The fp32 value of a finite bit pattern."""
    if code == BF16:
        return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)
    if code == F32:
        return np.uint32(bits).view(np.float32)
    # fp16: shift into fp32's fields, then mend the exponent's bias; right for subnormals too.
    magnitude = np.uint32(np.uint32(bits) & np.uint32(0x7FFF)) << np.uint32(13)
    value = np.uint32(magnitude).view(np.float32) * np.float32(2.0**112)
    return -value if np.uint32(bits) & np.uint32(0x8000) else value


@_compiled
def _from_float(value: Any, code: int) -> Any:
    """The bit pattern of a fp32 value rounded to nearest, ties to even."""
    bits = np.float32(value).view(np.uint32)
    if code == F32:
        return bits
    if code == BF16:
        odd = np.uint32(bits >> np.uint32(16)) & np.uint32(1)
        return np.uint32(np.uint32(bits + np.uint32(0x7FFF)) + odd) >> np.uint32(16)
    sign = np.uint32(bits >> np.uint32(16)) & np.uint32(0x8000)
    bits = np.uint32(bits & np.uint32(0x7FFFFFFF))
    if bits >= np.uint32(0x477FF000):
        return np.uint32(sign | np.uint32(0x7C00))
    if bits < np.uint32(0x38800000):
        # Adding 0.5 lets the hardware round at fp16's subnormal place.
        shifted = np.float32(bits.view(np.float32) + np.float32(0.5)).view(np.uint32)
        return np.uint32(sign | np.uint32(shifted - np.uint32(0x3F000000)))
    odd = np.uint32(bits >> np.uint32(13)) & np.uint32(1)
    rounded = np.uint32(np.uint32(bits + np.uint32(0xC8000FFF)) + odd)
    return np.uint32(sign | np.uint32(rounded >> np.uint32(13)))


@_compiled
def _kept(index: int, stream: Any, limit: Any) -> bool:
    """Philox4x32-10: whether draw ``index`` of ``stream`` lies below ``limit`` (of 2**32)."""
    block = np.uint64(index) >> np.uint64(2)
    c0 = np.uint64(block & np.uint64(0xFFFFFFFF))
    c1 = np.uint64(block >> np.uint64(32))
    c2, c3 = np.uint64(0), np.uint64(0)
    k0, k1 = np.uint64(stream[0]), np.uint64(stream[1])
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        p0 = np.uint64(np.uint64(0xD2511F53) * c0)
        p1 = np.uint64(np.uint64(0xCD9E8D57) * c2)
        c0 = np.uint64(np.uint64(p1 >> np.uint64(32)) ^ c1 ^ k0)
        c1 = np.uint64(p1 & low)
        c2 = np.uint64(np.uint64(p0 >> np.uint64(32)) ^ c3 ^ k1)
        c3 = np.uint64(p0 & low)
        k0 = np.uint64(np.uint64(k0 + np.uint64(0x9E3779B9)) & low)
        k1 = np.uint64(np.uint64(k1 + np.uint64(0xBB67AE85)) & low)
    lane = index & 3
    word = c0 if lane == 0 else (c1 if lane == 1 else (c2 if lane == 2 else c3))
    return word < limit


@_compiled
def largest_magnitude(bits: Any, mask: Any) -> int:
    """The largest ``bits & mask``; with all bits but the sign, it tells whether all are finite."""
    largest = mask & ~mask
    for i in range(bits.size):
        largest = max(largest, bits[i] & mask)
    return largest


@_compiled
def add_squares(bits: Any, total: Any) -> None:
    """Add the sum of squares of a delta to ``total`` (fp64 of 1).

    Block after block, so that slices of whole blocks add up to the very same number.
    """
    code = BF16 if bits.itemsize == 2 else F32
    for begin in range(0, bits.size, BLOCK):
        end = min(begin + BLOCK, bits.size)
        lanes = np.zeros(_NORM_LANES)
        whole = begin + (end - begin) // _NORM_LANES * _NORM_LANES
        for i in range(begin, whole, _NORM_LANES):
            for lane in range(_NORM_LANES):
                value = np.float64(_to_float(bits[i + lane], code))
                lanes[lane] += value * value
        for i in range(whole, end):
            value = np.float64(_to_float(bits[i], code))
            lanes[i - whole] += value * value
        total[0] += lanes.sum()


@_compiled
def fill_scores(
    theta: Any, theta_code: int, delta: Any, importance: Any, score: int, out: Any
) -> None:
    """Scores from gradients, abs(weight or delta) * G in fp32, as bit patterns into ``out``.

    Not negative, so that the patterns are in the order of the values.
    """
    delta_code = BF16 if delta.itemsize == 2 else F32
    importance_code = BF16 if importance.itemsize == 2 else F32
    for i in range(out.size):
        value = _to_float(delta[i], delta_code)
        if score == WEIGHT:
            value = np.float32(_to_float(theta[i], theta_code) + value)
        product = np.float32(abs(value)) * np.float32(
            abs(_to_float(importance[i], importance_code))
        )
        out[i] = np.float32(product).view(np.uint32)


@_compiled
def count_digits(keys: Any, counts: Any) -> None:
    """Add to ``counts`` (65,536) how often each leading 16-bit digit occurs."""
    shift = np.uint32(0) if keys.itemsize == 2 else np.uint32(16)
    for i in range(keys.size):
        counts[np.uint32(keys[i]) >> shift] += 1


@_compiled
def count_low_digits(keys: Any, high: int, counts: Any) -> None:
    """The same for the trailing digit, among uint32 keys whose leading digit is ``high``."""
    for i in range(keys.size):
        if np.uint32(keys[i]) >> np.uint32(16) == high:
            counts[keys[i] & np.uint32(0xFFFF)] += 1


@_compiled
def count_equal(keys: Any, value: int) -> int:
    """How many keys are ``value``."""
    count = 0
    for i in range(keys.size):
        count += np.int64(keys[i]) == value
    return count


@_compiled
def write_back(
    theta: Any, theta_code: int, start: int, rule: int,
    delta_s: Any, keys_s: Any, threshold_s: int, stream_s: Any, limit_s: Any, scale_s: Any,
    delta_o: Any, keys_o: Any, threshold_o: int, stream_o: Any, limit_o: Any, scale_o: Any,
    ties: Any, counts: Any, squares: Any,
) -> None:  # fmt: skip
    """Merge one slice in place: who is in which top set, who is kept, and the rounded sum.

    Args:
        theta: the backbone's bit patterns, from flat index ``start`` on; overwritten.
        rule: which entries of which patch are wanted, DIFFERENCE to SECOND.
        threshold_s: keys above it are in the top set, and the first ``ties[0]`` equal to it.
        stream_s, limit_s: of the retention draws.
        scale_s: fp32 factor of the delta.
        ties: int64 of 2, how many equal keys are still to be taken; counted down.
        counts, squares: int64 of 9 and fp64 of 2 (of the kept deltas); added to.
    """
    code_s = BF16 if delta_s.itemsize == 2 else F32
    code_o = BF16 if delta_o.itemsize == 2 else F32
    masked = rule <= INTERSECTION
    magnitude = np.uint32(0x7FFFFFFF) if theta_code == F32 else np.uint32(0x7FFF)
    infinity = np.uint32(0x7F80)
    if theta_code == F32:
        infinity = np.uint32(0x7F800000)
    elif theta_code == F16:
        infinity = np.uint32(0x7C00)
    for i in range(theta.size):
        take_s = rule in (ALL, FIRST)
        take_o = rule in (ALL, SECOND)
        if masked:
            key_s, key_o = np.int64(keys_s[i]), np.int64(keys_o[i])
            if key_s < threshold_s and key_o < threshold_o:
                continue
            in_s, in_o = key_s > threshold_s, key_o > threshold_o
            if key_s == threshold_s and ties[0] > 0:
                ties[0] -= 1
                in_s = True
            if key_o == threshold_o and ties[1] > 0:
                ties[1] -= 1
                in_o = True
            counts[TOP_S] += in_s
            counts[TOP_O] += in_o
            counts[OVERLAP] += in_s and in_o
            if rule == DIFFERENCE:
                take_s, take_o = in_s and not in_o, in_o and not in_s
            else:
                take_s = take_o = in_s and in_o
        take_s = take_s and _kept(start + i, stream_s, limit_s)
        take_o = take_o and _kept(start + i, stream_o, limit_o)
        if not (take_s or take_o):
            continue
        value = _to_float(theta[i], theta_code)
        if take_s:
            change = _to_float(delta_s[i], code_s)
            squares[0] += np.float64(change) * np.float64(change)
            value = np.float32(value + np.float32(scale_s * change))
        if take_o:
            change = _to_float(delta_o[i], code_o)
            squares[1] += np.float64(change) * np.float64(change)
            value = np.float32(value + np.float32(scale_o * change))
        rounded = np.uint32(_from_float(value, theta_code))
        changed = rounded != np.uint32(theta[i])
        counts[KEPT_S] += take_s
        counts[KEPT_O] += take_o
        counts[CHANGED_S] += take_s and changed
        counts[CHANGED_O] += take_o and changed
        counts[CHANGED] += changed
        counts[OVERFLOW] += (rounded & magnitude) >= infinity
        theta[i] = rounded


@_compiled
def encode_changes(before: Any, after: Any, gaps: Any, differences: Any) -> tuple[int, int]:
    """Where two slices differ: gaps in base 128, low digits first, and before XOR after.

    A gap is the number of equal values since the last change; all but a gap's last byte have the
    high bit set.

    Args:
        gaps: uint8, room for 5 bytes a value; differences: as ``before``, room for all values.

    Returns:
        How many bytes of ``gaps`` and values of ``differences`` are used.
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
    return used, count


@_compiled
def apply_changes(bits: Any, gaps: Any, differences: Any) -> bool:
    """XOR encoded changes into a slice, in place; False where they do not fit it."""
    position, count, gap, shift = 0, 0, 0, 0
    for i in range(gaps.size):
        byte = np.int64(gaps[i])
        gap |= (byte & 127) << shift
        shift += 7
        if byte & 128:
            if shift > 35:
                return False
            continue
        position += gap
        if position >= bits.size or count >= differences.size:
            return False
        bits[position] ^= differences[count]
        position, count, gap, shift = position + 1, count + 1, 0, 0
    return count == differences.size and shift == 0
