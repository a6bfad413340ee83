"""The compiled loops over raw bit patterns.

They stand in one file because numba's cache notices a change of a loop's own file only. A bit
pattern array is uint16 (bf16, fp16) or uint32 (fp32); a delta's or importance's uint16 is bf16.
Every loop releases the interpreter's lock, so that several threads run at once. No fast-math: a
product is rounded before it is added, and the results are the same on every machine.
"""

from typing import Any

import numpy as np

from merge.compiled import compiled

BF16, F16, F32 = 0, 1, 2
DIFFERENCE, INTERSECTION, EACH, ALL, FIRST, SECOND = range(6)
"""Rules: who takes an entry, by top sets up to EACH, without any from ALL on."""
IN_TURN, SUMMED, AVERAGED, ELECTED = range(4)
"""How the taken deltas and the backbone become one value; see ``merge.methods``."""
WEIGHT, DELTA = 0, 1
TOP_S, TOP_O, OVERLAP, KEPT_S, KEPT_O, CHANGED_S, CHANGED_O, CHANGED, OVERFLOW = range(9)
"""Positions in the counts that ``write_back`` adds to."""

BLOCK = 1 << 16
"""Slices of a tensor hold a multiple of this many values."""
_NORM_LANES = 16
_CHUNK = 2048
"""Entries that write_back goes through at a time, so that its lists stay in the first cache."""
_S, _O = 1, 2
"""Flags of the patches that an entry takes."""


@compiled
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


@compiled
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


@compiled
def _draw(counters: Any, count: int, stream: Any, words: Any) -> None:
    """Philox4x32-10: ``words[:count]`` become the draws of the flat indices in ``counters``.

    Nothing branches, so that the compiler runs several draws in one vector.
    """
    low = np.uint64(0xFFFFFFFF)
    for i in range(count):
        block = np.uint64(counters[i] >> np.uint64(2))
        lane = np.uint64(counters[i] & np.uint64(3))
        c0, c1 = np.uint64(block & low), np.uint64(block >> np.uint64(32))
        c2, c3 = np.uint64(0), np.uint64(0)
        k0, k1 = np.uint64(stream[0]), np.uint64(stream[1])
        for _ in range(10):
            p0 = np.uint64(np.uint64(0xD2511F53) * c0)
            p1 = np.uint64(np.uint64(0xCD9E8D57) * c2)
            c0 = np.uint64(np.uint64(p1 >> np.uint64(32)) ^ c1 ^ k0)
            c1 = np.uint64(p1 & low)
            c2 = np.uint64(np.uint64(p0 >> np.uint64(32)) ^ c3 ^ k1)
            c3 = np.uint64(p0 & low)
            k0 = np.uint64(np.uint64(k0 + np.uint64(0x9E3779B9)) & low)
            k1 = np.uint64(np.uint64(k1 + np.uint64(0xBB67AE85)) & low)
        even = c0 if lane == np.uint64(0) else c2
        odd = c1 if lane == np.uint64(1) else c3
        words[i] = odd if lane & np.uint64(1) else even


@compiled
def _retain(
    flags: Any, places: Any, count: int, first: int, stream: Any, limit: Any, flag: int
) -> None:
    """Clear ``flag`` of those entries of a block whose draw is not below ``limit``."""
    if limit == np.uint64(1 << 32):
        return
    chosen = np.empty(count, np.int64)
    counters = np.empty(count, np.uint64)
    size = 0
    for j in range(count):
        chosen[size] = j
        counters[size] = np.uint64(first + places[j])
        size += (flags[j] & flag) != 0
    words = np.empty(size, np.uint64)
    _draw(counters, size, stream, words)
    for j in range(size):
        dropped = np.uint8(words[j] >= limit)
        flags[chosen[j]] ^= np.uint8(dropped * np.uint8(flag))


@compiled
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


@compiled
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


@compiled
def _select(
    rule: int, begin: int, end: int, keys_s: Any, threshold_s: int, keys_o: Any, threshold_o: int,
    ties: Any, counts: Any, places: Any, flags: Any,
) -> int:  # fmt: skip
    """Entries of a chunk in either top set into ``places``, and who wants them into ``flags``.

    Written without branches: which entry is in a set cannot be predicted.
    """
    count = 0
    for i in range(begin, end):
        places[count] = i
        count += (np.int64(keys_s[i]) >= threshold_s) | (np.int64(keys_o[i]) >= threshold_o)
    for j in range(count):
        key_s, key_o = np.int64(keys_s[places[j]]), np.int64(keys_o[places[j]])
        tie_s = np.int64((key_s == threshold_s) & (ties[0] > 0))
        tie_o = np.int64((key_o == threshold_o) & (ties[1] > 0))
        ties[0] -= tie_s
        ties[1] -= tie_o
        in_s = np.int64(key_s > threshold_s) | tie_s
        in_o = np.int64(key_o > threshold_o) | tie_o
        both = in_s & in_o
        counts[TOP_S] += in_s
        counts[TOP_O] += in_o
        counts[OVERLAP] += both
        if rule == DIFFERENCE:
            flags[j] = (in_s ^ both) * _S | (in_o ^ both) * _O
        elif rule == INTERSECTION:
            flags[j] = both * (_S | _O)
        else:
            flags[j] = in_s * _S | in_o * _O
    return int(count)


@compiled
def _combine(
    combination: int, value: Any,
    take_s: bool, change_s: Any, scale_s: Any, take_o: bool, change_o: Any, scale_o: Any,
) -> Any:  # fmt: skip
    """The fp32 value of an entry, every operation rounded; what is not taken has change 0."""
    if combination == IN_TURN:
        if take_s:
            value = np.float32(value + np.float32(scale_s * change_s))
        if take_o:
            value = np.float32(value + np.float32(scale_o * change_o))
        return value
    if combination == SUMMED:
        change = np.float32(np.float32(scale_s * change_s) + np.float32(scale_o * change_o))
        return np.float32(value + change)
    if combination == AVERAGED:
        rest = np.float32(np.float32(np.float32(1) - scale_s) - scale_o)
        tuned_s = np.float32(scale_s * np.float32(value + change_s))
        tuned_o = np.float32(scale_o * np.float32(value + change_o))
        return np.float32(np.float32(np.float32(rest * value) + tuned_s) + tuned_o)
    total = np.float32(change_s + change_o)
    agree_s, agree_o = change_s * total > 0, change_o * total > 0
    if not (agree_s or agree_o):
        return value
    change = total * np.float32(0.5) if agree_s and agree_o else (change_s if agree_s else change_o)
    return np.float32(value + np.float32(scale_s * change))


@compiled
def write_back(
    theta: Any, theta_code: int, start: int, rule: int, combination: int,
    delta_s: Any, keys_s: Any, threshold_s: int, stream_s: Any, limit_s: Any, scale_s: Any,
    delta_o: Any, keys_o: Any, threshold_o: int, stream_o: Any, limit_o: Any, scale_o: Any,
    ties: Any, counts: Any, squares: Any,
) -> None:  # fmt: skip
    """Merge one slice in place: who is in which top set, who is kept, and the rounded sum.

    Args:
        theta: the backbone's bit patterns, from flat index ``start`` on; overwritten.
        rule: which entries of which patch are wanted, DIFFERENCE to SECOND.
        combination: IN_TURN to ELECTED.
        threshold_s: keys above it are in the top set, and the first ``ties[0]`` equal to it.
        stream_s, limit_s: of the retention draws.
        scale_s: fp32 factor of the delta.
        ties: int64 of 2, how many equal keys are still to be taken; counted down.
        counts, squares: int64 of 9 and fp64 of 2 (of the kept deltas); added to.
    """
    code_s = BF16 if delta_s.itemsize == 2 else F32
    code_o = BF16 if delta_o.itemsize == 2 else F32
    magnitude = np.uint32(0x7FFFFFFF) if theta_code == F32 else np.uint32(0x7FFF)
    infinity = np.uint32(0x7F80)
    if theta_code == F32:
        infinity = np.uint32(0x7F800000)
    elif theta_code == F16:
        infinity = np.uint32(0x7C00)
    places, flags = np.empty(_CHUNK, np.int64), np.empty(_CHUNK, np.uint8)
    for begin in range(0, theta.size, _CHUNK):
        end = min(begin + _CHUNK, theta.size)
        if rule <= EACH:
            count = _select(
                rule, begin, end, keys_s, threshold_s, keys_o, threshold_o,
                ties, counts, places, flags,
            )  # fmt: skip
        else:
            count = end - begin
            wanted = _S | _O if rule == ALL else (_S if rule == FIRST else _O)
            for j in range(count):
                places[j], flags[j] = begin + j, wanted
        _retain(flags, places, count, start, stream_s, limit_s, _S)
        _retain(flags, places, count, start, stream_o, limit_o, _O)
        for j in range(count):
            if flags[j] == 0:
                continue
            i, take_s, take_o = places[j], flags[j] & _S != 0, flags[j] & _O != 0
            change_s = change_o = np.float32(0)
            if take_s:
                change_s = _to_float(delta_s[i], code_s)
                squares[0] += np.float64(change_s) * np.float64(change_s)
            if take_o:
                change_o = _to_float(delta_o[i], code_o)
                squares[1] += np.float64(change_o) * np.float64(change_o)
            value = _combine(
                combination, _to_float(theta[i], theta_code),
                take_s, change_s, scale_s, take_o, change_o, scale_o,
            )  # fmt: skip
            rounded = np.uint32(_from_float(value, theta_code))
            changed = rounded != np.uint32(theta[i])
            counts[KEPT_S] += take_s
            counts[KEPT_O] += take_o
            counts[CHANGED_S] += take_s and changed
            counts[CHANGED_O] += take_o and changed
            counts[CHANGED] += changed
            counts[OVERFLOW] += (rounded & magnitude) >= infinity
            theta[i] = rounded
