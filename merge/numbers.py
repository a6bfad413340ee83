"""Between the dtypes of the files and float32, bit for bit."""

import numpy as np


def to_float32(values: np.ndarray) -> np.ndarray:
    """Exact float32 values of float16, float32, or bfloat16 bit patterns (uint16)."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def round_to(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Float32 values rounded to nearest, ties to even, in a file's dtype (uint16: bfloat16)."""
    if dtype != np.uint16:
        return values.astype(dtype)
    bits = values.view(np.uint32)
    # Adding half of the last place, less one where that is even, carries exactly when it should.
    rounded = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
    return rounded.astype(np.uint16)
