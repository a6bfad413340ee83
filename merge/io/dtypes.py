"""The number formats of model files, by their safetensors names."""

import numpy as np

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
"""Bytes of one value. Formats of less than a byte are not taken: none has a merger's use."""

BITS = {
    "BF16": np.dtype(np.uint16),
    "F16": np.dtype(np.uint16),
    "F32": np.dtype(np.uint32),
}
"""The formats that can be merged, and the unsigned integers that hold their bit patterns."""

PATCH_DTYPES = ("BF16", "F32")
"""What a patch's deltas and importances are stored in."""
