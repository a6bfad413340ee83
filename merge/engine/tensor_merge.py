"""Merging one tensor: scores, top sets, retention and write-back, slice by slice."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from merge.engine.inputs import ROLES, BitSource, MergeInputs
from merge.engine.retention import retention_key, retention_limit
from merge.engine.selection import NOTHING, Threshold, deal_ties, find_threshold, top_count
from merge.engine.slices import wide_keys
from merge.io.patch_directory import Role
from merge.kernels import counting as count_kernels
from merge.kernels import merging as kernels
from merge.kernels import sets as set_kernels
from merge.methods import Combination, Rule
from merge.settings import MergeSettings, method_of

Thresholds = dict[Role, Threshold]
_CODES = {"BF16": kernels.BF16, "F16": kernels.F16, "F32": kernels.F32}
_TAKEN: dict[Rule, tuple[int, int, int, int]] = {
    "difference": (0, 1, 2, 0),
    "intersection": (0, 0, 0, 3),
    "each": (0, 1, 2, 3),
    "all": (3, 3, 3, 3),
    "first": (1, 1, 1, 1),
    "second": (2, 2, 2, 2),
}
"""By rule, see ``TensorMerger.labels``."""
_COMBINATIONS: dict[Combination, int] = {
    "in_turn": kernels.IN_TURN,
    "summed": kernels.SUMMED,
    "averaged": kernels.AVERAGED,
    "elected": kernels.ELECTED,
    "by_set": kernels.BY_SET,
}
_SCORES = {"weight": kernels.WEIGHT, "delta": kernels.DELTA}
_NO_KEYS = np.empty(0, np.uint16)


@dataclass(frozen=True)
class TensorReport:
    """What the merge did to one tensor; counts of entries, and Euclidean norms."""

    elements: int
    top_S: int  # noqa: N815 - these are the keys of merge.json
    top_O: int  # noqa: N815
    overlap: int
    kept_S: int  # noqa: N815
    kept_O: int  # noqa: N815
    changed_S: int  # noqa: N815
    """Kept entries of the safety patch whose bits changed, by either patch."""
    changed_O: int  # noqa: N815
    nonzero_S: int  # noqa: N815
    """Kept entries of the safety patch whose delta is not 0."""
    nonzero_O: int  # noqa: N815
    erased_count_S: int  # noqa: N815
    """Entries with a delta that rounding gave their old bits again. Not counted: entries that the
    merge leaves alone, by a scale of 0, where both patches cancel, where ties elected a sign."""
    erased_count_O: int  # noqa: N815
    changed: int
    """Entries whose bits changed, by either patch."""
    overflowed: int
    """Entries that left the range of the model's dtype."""
    norm_S: float  # noqa: N815
    """Norm of the whole delta."""
    norm_O: float  # noqa: N815
    kept_norm_S: float  # noqa: N815
    """Norm of the kept entries, before alpha."""
    kept_norm_O: float  # noqa: N815

    def as_json(self) -> dict[str, float]:
        """For merge.json."""
        return asdict(self)


class TensorMerger:
    """Merges tensors of one set of inputs under one set of settings; shared by threads.

    Args:
        slice_values: how many values of a tensor are in hand at a time, a multiple of
            ``slices.BLOCK``. Results do not depend on it.
    """

    def __init__(
        self, inputs: MergeInputs, source: BitSource, settings: MergeSettings, slice_values: int
    ) -> None:
        self._inputs = inputs
        self._source = source
        self._settings = settings
        self._slice_values = slice_values
        self._method = method_of(settings)
        self._rates = {"safety": settings.top_safety, "over_safety": settings.top_over_safety}
        drawn = self._method.drawn
        rescaled = drawn and (settings.rescale or self._method.always_rescaled)
        self._divisor = settings.retention if rescaled else 1.0
        self._limit = retention_limit(settings.retention if drawn else 1.0)
        self._wide = {role: wide_keys(inputs, role, self._method) for role in ROLES}

    def thresholds(self, name: str) -> Thresholds:
        """The top sets of one tensor by itself (``scope=tensor``)."""
        size = self._inputs.backbone[name].size
        return {
            role: self.threshold(role, [name], top_count(self._rates[role], size))
            for role in ROLES
            if self._method.masked
        }

    def model_thresholds(
        self, advance: Callable[[int], object] = lambda _: None
    ) -> dict[str, Thresholds]:
        """The top sets over all covered tensors together (``scope=model``), for each of them.

        Args:
            advance: told the number of values that a pass has gone through.
        """
        names = self._inputs.covered
        found: dict[str, Thresholds] = {name: {} for name in names}
        if not self._method.masked:
            return found
        size = sum(self._inputs.backbone[name].size for name in names)
        for role in ROLES:
            threshold = self.threshold(role, names, top_count(self._rates[role], size), advance)
            equal = {name: self._count_equal(role, name, threshold.key, advance) for name in names}
            for name, dealt in deal_ties(threshold, equal).items():
                found[name][role] = dealt
        return found

    def threshold(
        self,
        role: Role,
        names: tuple[str, ...] | list[str],
        count: int,
        advance: Callable[[int], object] = lambda _: None,
    ) -> Threshold:
        """The top ``count`` of one patch's entries over the named tensors."""

        def keys() -> Iterator[np.ndarray]:
            for name in names:
                for start, stop in self._slices(name):
                    yield self.keys(role, name, start, stop)
                    advance(stop - start)

        return find_threshold(keys, count, self._wide[role])

    def _count_equal(
        self, role: Role, name: str, key: int, advance: Callable[[int], object]
    ) -> int:
        count = 0
        for start, stop in self._slices(name):
            count += count_kernels.count_equal(self.keys(role, name, start, stop), key)
            advance(stop - start)
        return count

    def keys(self, role: Role, name: str, start: int, stop: int) -> np.ndarray:
        """The scores of a slice as bit patterns whose sign means nothing.

        uint16 for what is stored as bf16 and ranked as it is, else uint32.
        """
        if self._method.by_magnitude:
            return self._widened(role, self._source.read("delta", role, name, start, stop))
        importance = self._source.read("importance", role, name, start, stop)
        if not self._inputs.patches[role].holds_gradients:
            return self._widened(role, importance)
        keys = self._source.scratch(f"keys {role}", np.uint32, stop - start)
        kernels.fill_scores(
            self._source.read("backbone", None, name, start, stop),
            _CODES[self._inputs.backbone[name].dtype],
            self._source.read("delta", role, name, start, stop),
            importance,
            _SCORES[self._settings.score],
            keys,
        )
        return keys

    def _widened(self, role: Role, bits: np.ndarray) -> np.ndarray:
        if bits.itemsize == 4 or not self._wide[role]:
            return bits
        keys = self._source.scratch(f"keys {role}", np.uint32, bits.size)
        return np.left_shift(bits, 16, out=keys, dtype=np.uint32)

    def merge(
        self,
        name: str,
        thresholds: Thresholds,
        write: Callable[[int, np.ndarray, np.ndarray], None],
    ) -> TensorReport:
        """Merge one tensor.

        Args:
            write: called for each slice in order with its start, its bits before and its bits
                after, which it must not keep.
        """
        entry = self._inputs.backbone[name]
        counts, squares = np.zeros(kernels.COUNTS, np.int64), np.zeros((4, kernels.LANES))
        scales = np.array(self._settings.set_scales_of(name)) / self._divisor
        scales = scales.astype(np.float32)
        taken = (
            _taken_by_set(scales) if self._method.rule == "by_set" else _TAKEN[self._method.rule]
        )
        tops = np.zeros(3, np.int64)
        for start, stop, labels in self.labels(name, thresholds, taken, tops):
            before = self._source.read("backbone", None, name, start, stop)
            after = self._source.scratch("merged", before.dtype.type, stop - start)
            values = self._source.scratch("values", np.float32, 4 * kernels.CHUNK)
            flags = self._source.scratch("flags", np.uint8, 2 * kernels.CHUNK)
            changes = []
            for role, of_role in zip(ROLES, scales, strict=True):
                changes += [self._source.read("delta", role, name, start, stop), of_role]
            kernels.write_back(
                before, _CODES[entry.dtype], after, labels,
                _COMBINATIONS[self._method.combination], *changes, counts, squares,
                values.reshape(4, -1), flags.reshape(2, -1),
            )  # fmt: skip
            write(start, before, after)
        norms = [math.sqrt(math.fsum(row)) for row in squares]
        return TensorReport(entry.size, *tops.tolist(), *counts.tolist(), *norms)

    def labels(
        self, name: str, thresholds: Thresholds, taken: Sequence[int], counts: np.ndarray
    ) -> Iterator[tuple[int, int, np.ndarray]]:
        """Which sets the entries of one tensor are in, and who takes and keeps them.

        Args:
            taken: uint8 flags of the patches (1 safety, 2 over-safety) that take an entry in no
                top set, in the safety patch's, in the over-safety patch's, in both.
            counts: int64 of 3; top_S, top_O and overlap are added.

        Yields:
            For each slice in order its start, its stop, and its labels, uint8 as
            ``merge.kernels.sets`` says; valid until the next.
        """
        chosen = [thresholds.get(role, NOTHING) for role in ROLES]
        ties = np.array([threshold.ties for threshold in chosen], np.int64)
        streams = [retention_key(self._settings.seed, role, name) for role in ROLES]
        flags = np.array(taken, np.uint8)
        for start, stop in self._slices(name):
            packed = self._source.scratch("labels", np.uint32, -(-(stop - start) // 4))
            of_patches = []
            for role, threshold, stream in zip(ROLES, chosen, streams, strict=True):
                keys = self.keys(role, name, start, stop) if self._method.masked else _NO_KEYS
                of_patches += [keys, threshold.key, stream, self._limit]
            set_kernels.label_sets(packed, stop - start, start, flags, *of_patches, ties, counts)
            yield start, stop, packed.view(np.uint8)[: stop - start]

    def _slices(self, name: str) -> Iterator[tuple[int, int]]:
        size = self._inputs.backbone[name].size
        for start in range(0, size, self._slice_values):
            yield start, min(start + self._slice_values, size)


def _taken_by_set(scales: np.ndarray) -> list[int]:
    """Who takes an entry by the scales of its sets, fp32 [2, 3]: a scale of 0 takes nothing."""
    (own_s, shared_s, rest_s), (own_o, shared_o, rest_o) = (scales != 0).astype(int).tolist()
    return [
        rest_s | rest_o << 1,
        own_s | rest_o << 1,
        rest_s | own_o << 1,
        shared_s | shared_o << 1,
    ]
