"""The compiled conversions between bit patterns and fp32 values, and the scores made of them."""

from typing import Any

import numpy as np

from merge.kernels.compiled import compiled

BF16, F16, F32 = 0, 1, 2
WEIGHT, DELTA = 0, 1


@compiled
def to_float(bits: Any, code: int) -> Any:
    """The fp32 value of a finite bit pattern."""
    if code == BF16:
        return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)
    if code == F32:
        return np.uint32(bits).view(np.float32)
    # fp16: shift into fp32's fields, then fix the exponent's bias; right for subnormals too.
    magnitude = np.uint32(np.uint32(bits) & np.uint32(0x7FFF)) << np.uint32(13)
    value = np.uint32(magnitude).view(np.float32) * np.float32(2.0**112)
    return -value if np.uint32(bits) & np.uint32(0x8000) else value


@compiled
def from_float(value: Any, code: int) -> Any:
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
def fill_scores(
    theta: Any, theta_code: int, delta: Any, importance: Any, score: int, out: Any
) -> None:
    """Scores from gradients, abs(weight or delta) * G in fp32, as bit patterns into ``out``.

    Not negative, so that the patterns are in the order of the values.
    """
    delta_code = BF16 if delta.itemsize == 2 else F32
    importance_code = BF16 if importance.itemsize == 2 else F32
    for i in range(out.size):
        value = to_float(delta[i], delta_code)
        if score == WEIGHT:
            value = np.float32(to_float(theta[i], theta_code) + value)
        product = np.float32(abs(value)) * np.float32(abs(to_float(importance[i], importance_code)))
        out[i] = np.float32(product).view(np.uint32)
