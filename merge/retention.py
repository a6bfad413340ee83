"""Random retention: draws that depend on seed, patch, tensor and index, and on nothing else.

Entry i of a tensor is kept iff u < p with u = w / 2**32, where w is word i mod 4 of the block that
Philox4x32-10 (Salmon et al., SC 2011) makes of the counter i div 4. The key is the first 8 bytes,
little-endian, of SHA-256 over "SEED/PATCH/TENSOR" in UTF-8, its lower half first. So cutting
shards elsewhere, other threads, or more covered tensors change no draw.
"""

import hashlib

import numpy as np
from numba import njit

_ROUNDS = 10
_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_WORD = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def retention_key(seed: int, patch: str, tensor: str) -> int:
    """The 64-bit key of one tensor's draws."""
    digest = hashlib.sha256(f"{seed}/{patch}/{tensor}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def drop_unretained(selected: np.ndarray, key: int, rate: float, start: int = 0) -> None:
    """Clear, in place, the selected entries that are not kept; draws only for these.

    Args:
        selected: bool, flat.
        rate: the probability to be kept.
        start: the flat index of the first entry.
    """
    if rate < 1:
        _drop(selected, np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32), rate * 2.0**32, start)


@njit(cache=True, nogil=True)
def _drop(
    selected: np.ndarray, key_0: np.uint64, key_1: np.uint64, bound: float, start: int
) -> None:
    for place in range(selected.size):
        if selected[place]:
            index = start + place
            word = philox_word(np.uint64(index >> 2), key_0, key_1, index & 3)
            selected[place] = np.float64(word) < bound


@njit(cache=True, nogil=True)
def philox_word(counter: np.uint64, key_0: np.uint64, key_1: np.uint64, word: int) -> np.uint64:
    """One of the four 32-bit words of the Philox4x32-10 block of a 64-bit counter."""
    word_0, word_1 = counter & _WORD, counter >> _HALF
    word_2, word_3 = np.uint64(0), np.uint64(0)
    for _ in range(_ROUNDS):
        product_0, product_1 = _MULTIPLIER_0 * word_0, _MULTIPLIER_1 * word_2
        word_0, word_1, word_2, word_3 = (
            (product_1 >> _HALF) ^ word_1 ^ key_0,
            product_1 & _WORD,
            (product_0 >> _HALF) ^ word_3 ^ key_1,
            product_0 & _WORD,
        )
        key_0, key_1 = (key_0 + _WEYL_0) & _WORD, (key_1 + _WEYL_1) & _WORD
    return (word_0, word_1, word_2, word_3)[word]
