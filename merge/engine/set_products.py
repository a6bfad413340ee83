"""How much a gradient changes with the scale of each set of either patch, tensor by tensor.

For a value m of the model with gradient g in one tensor, the derivative of m by the scale that
method ``by_set`` gives a set of a patch is the sum of g_i * delta_i over the set's kept entries.
So one backward pass gives the derivatives by all scales (issue 14, point 4).
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from merge.engine.inputs import ROLES, BitSource, MergeInputs
from merge.engine.tensor_merge import TensorMerger
from merge.io.patch_directory import Role
from merge.kernels import products as product_kernels
from merge.settings import SETS, MergeSettings

Selection = tuple[str | float, ...]
_PART = 2**20
"""Entries that one thread multiplies at a time."""


def selection_of(settings: MergeSettings) -> Selection:
    """What sets and retention depend on; neither method nor scales."""
    return (
        settings.score,
        settings.scope,
        settings.top_safety,
        settings.top_over_safety,
        settings.retention,
        settings.rescale,
        settings.seed,
    )


class SetProducts:
    """Inner products with the sets of one selection, by all cores; labels every tensor once, a byte
    an entry.

    Args:
        merger: of method ``by_set`` and this selection, over ``source``.
        scope: of its top sets.
        divisor: of the sums; the retention rate where kept entries are rescaled.
    """

    def __init__(
        self,
        inputs: MergeInputs,
        source: BitSource,
        merger: TensorMerger,
        scope: str,
        divisor: float,
    ) -> None:
        self.inputs = inputs
        self.divisor = divisor
        self._source = source
        self._merger = merger
        self._model = merger.model_thresholds() if scope == "model" else None
        self._labels: dict[str, np.ndarray] = {}
        self._pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))

    def of(self, name: str, gradient: np.ndarray) -> np.ndarray:
        """The sums of gradient * delta over kept entries, divided: fp64 [2, 3], by role and by set.

        Args:
            gradient: fp32, of the tensor's size.

        Raises:
            ValueError: another dtype or size.
        """
        size = self.inputs.backbone[name].size
        if gradient.dtype != np.float32 or gradient.size != size:
            raise ValueError(
                f"the gradient of '{name}' must be {size} float32 values, not "
                f"{gradient.size} of {gradient.dtype}"
            )
        deltas = [self.delta(role, name) for role in ROLES]
        flat = np.ascontiguousarray(gradient).reshape(-1)
        arrays = (flat, *deltas, self.labels(name))

        def sums_of(begin: int) -> np.ndarray:
            sums = np.zeros((len(ROLES), len(SETS), product_kernels.LANES))
            room = np.empty(product_kernels.LANES)
            parts = (array[begin : begin + _PART] for array in arrays)
            product_kernels.add_products(*parts, sums, room)
            return sums.sum(-1)

        total = np.zeros((len(ROLES), len(SETS)))
        for part in self._pool.map(sums_of, range(0, size, _PART)):
            total += part
        return total / self.divisor

    def labels(self, name: str) -> np.ndarray:
        """Which sets a tensor's entries are in: uint8, see ``merge.kernels.products.INSIDE``."""
        if name not in self._labels:
            self._labels[name] = self._label(name)
        return self._labels[name]

    def delta(self, role: Role, name: str) -> np.ndarray:
        """A tensor of a patch as bit patterns, flat; valid until the next one of that patch."""
        return self._source.read("delta", role, name, 0, self.inputs.backbone[name].size)

    def _label(self, name: str) -> np.ndarray:
        thresholds = self._model[name] if self._model else self._merger.thresholds(name)
        labels = np.empty(self.inputs.backbone[name].size, np.uint8)
        for start, stop, part in self._merger.labels(name, thresholds, (3, 3, 3, 3)):
            labels[start:stop] = part
        return labels
