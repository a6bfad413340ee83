"""Which units of a matrix matter to which patch, after SSAH's four kinds (arXiv 2410.10862).

A unit is a row (an output neuron) or a column (an input channel) of one matrix. It matters to a
patch where the sum of its scores is more than m times that of the matrix's mean unit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from merge.engine.inputs import ROLES
from merge.io.patch_directory import Role

MULTIPLES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
"""The values of m that are tried."""
_SIDES = ("rows", "columns")
_KINDS = ("safety", "over_safety", "both")


@dataclass(frozen=True)
class UnitSums:
    """Sums of the scores of one tensor of one patch, fp64."""

    rows: np.ndarray
    columns: np.ndarray


@dataclass(frozen=True)
class TensorSums:
    """What one tensor's scores add up to."""

    importance: Mapping[Role, float]
    sizes: Mapping[str, int]
    """How many rows and columns there are."""
    counts: Mapping[str, np.ndarray]
    """See ``count_units``."""


def add_up(sums: Mapping[Role, UnitSums]) -> TensorSums:
    """The figures of one tensor from the sums of both patches."""
    pairs = {side: [getattr(sums[role], side) for role in ROLES] for side in _SIDES}
    return TensorSums(
        importance={role: float(sums[role].rows.sum()) for role in ROLES},
        sizes={side: safety.size for side, (safety, _) in pairs.items()},
        counts={side: count_units(*pair) for side, pair in pairs.items()},
    )


def count_over_tensors(tensors: Sequence[TensorSums]) -> dict[str, dict[str, int | list[int]]]:
    """For rows and columns how many there are, and how many matter to whom at each m; JSON."""
    totals: dict[str, dict[str, int | list[int]]] = {}
    for side in _SIDES:
        counts = np.sum([tensor.counts[side] for tensor in tensors], axis=0).tolist()
        totals[side] = {"units": sum(tensor.sizes[side] for tensor in tensors)}
        totals[side] |= dict(zip(_KINDS, counts, strict=True))
    return totals


def count_units(safety: np.ndarray, over_safety: np.ndarray) -> np.ndarray:
    """How many units matter to the safety patch alone, to the other alone, and to both.

    Args:
        safety: the units' sums of scores, fp64; ``over_safety`` the same.

    Returns:
        int64 [3, multiples]: a column for each m of ``MULTIPLES``.
    """
    counts = np.zeros((3, len(MULTIPLES)), np.int64)
    for column, multiple in enumerate(MULTIPLES):
        first, second = (
            sums > multiple * sums.mean() if sums.size else sums > 0
            for sums in (safety, over_safety)
        )
        kinds = (first & ~second, second & ~first, first & second)
        counts[:, column] = [kind.sum() for kind in kinds]
    return counts
