"""Merge methods: which entries of either patch go into the backbone."""

from collections.abc import Callable

import numpy as np

from merge.recipe import Method

Sets = tuple[np.ndarray, np.ndarray]
"""Which entries the safety patch and the over-safety patch give; bool, flat."""


def _difference(top_safety: np.ndarray, top_over_safety: np.ndarray) -> Sets:
    return top_safety & ~top_over_safety, top_over_safety & ~top_safety


def _intersection(top_safety: np.ndarray, top_over_safety: np.ndarray) -> Sets:
    both = top_safety & top_over_safety
    return both, both.copy()


def _dense(top_safety: np.ndarray, top_over_safety: np.ndarray) -> Sets:
    return np.ones_like(top_safety), np.ones_like(top_over_safety)


def _safety(top_safety: np.ndarray, top_over_safety: np.ndarray) -> Sets:
    return np.ones_like(top_safety), np.zeros_like(top_over_safety)


def _over_safety(top_safety: np.ndarray, top_over_safety: np.ndarray) -> Sets:
    return np.zeros_like(top_safety), np.ones_like(top_over_safety)


METHODS: dict[Method, Callable[[np.ndarray, np.ndarray], Sets]] = {
    # SafePatching, arXiv 2405.13820, section 3: D_S = top_S \ top_O and D_O = top_O \ top_S.
    "difference": _difference,
    # The same paper's ablation: only what both patches need.
    "intersection": _intersection,
    # Both patches whole: alpha x delta_S + beta x delta_O, with random retention only.
    "dense": _dense,
    # One patch alone, the paper's Table 1 rows "w/ safety patch" and "w/ over-safety patch".
    "safety": _safety,
    "over_safety": _over_safety,
}
USES_IMPORTANCE: frozenset[Method] = frozenset({"difference", "intersection"})
