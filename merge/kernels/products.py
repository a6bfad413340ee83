"""The compiled loop of the inner products of a gradient with the sets of two patches."""

from typing import Any

import numpy as np

from merge.kernels.compiled import compiled

LANES = 512
"""Sums of one set, entry i in sum i mod LANES: the compiler turns them into vectors, and their
rounding errors stay small."""
INSIDE = (((13, 5), (13, 13), (5, 1)), ((14, 10), (14, 14), (10, 2)))
"""By patch and set: which bits of an entry's label to look at, and what they are in the set. Bits
1 and 2 say whether the safety, the over-safety patch keeps the entry, 4 and 8 whether it is in its
top set."""


@compiled
def _multiply(gradient: Any, delta: Any, products: Any) -> None:
    """Products of fp32 with fp32, or bf16, bit patterns: exact in fp64."""
    if delta.itemsize == 2:
        for j in range(gradient.size):
            value = np.uint32(np.uint32(delta[j]) << np.uint32(16)).view(np.float32)
            products[j] = np.float64(gradient[j]) * np.float64(value)
    else:
        for j in range(gradient.size):
            value = np.uint32(delta[j]).view(np.float32)
            products[j] = np.float64(gradient[j]) * np.float64(value)


@compiled
def _add_where(labels: Any, inside: tuple[int, int], values: Any, sums: Any) -> None:
    """Add the values of those entries whose labels lie in a set; see ``INSIDE``."""
    bits, wanted = np.uint8(inside[0]), np.uint8(inside[1])
    for j in range(labels.size):
        sums[j] += values[j] if labels[j] & bits == wanted else 0.0


@compiled
def add_products(
    gradient: Any, delta_s: Any, delta_o: Any, labels: Any, sums: Any, products: Any
) -> None:
    """Add gradient * delta to the sums of the sets, for entries that a patch keeps.

    Args:
        gradient: fp32.
        delta_s, delta_o: bit patterns, uint16 of bf16 or uint32 of fp32.
        labels: uint8, see ``merge.kernels.sets``.
        sums: fp64 of (2, 3, LANES): by patch, and by set in the order of ``merge.settings.SETS``.
        products: fp64 of LANES, to work in.
    """
    for begin in range(0, gradient.size, LANES):
        end = min(begin + LANES, gradient.size)
        part, marks = gradient[begin:end], labels[begin:end]
        _multiply(part, delta_s[begin:end], products)
        _add_where(marks, INSIDE[0][0], products, sums[0, 0])
        _add_where(marks, INSIDE[0][1], products, sums[0, 1])
        _add_where(marks, INSIDE[0][2], products, sums[0, 2])
        _multiply(part, delta_o[begin:end], products)
        _add_where(marks, INSIDE[1][0], products, sums[1, 0])
        _add_where(marks, INSIDE[1][1], products, sums[1, 1])
        _add_where(marks, INSIDE[1][2], products, sums[1, 2])
