"""Merging one tensor: scores, top sets, retention and write-back, slice by slice."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np

from merge import count_kernels, kernels
from merge.inputs import ROLES, BitSource, MergeInputs
from merge.methods import Combination, Rule, method_of
from merge.patch_directory import Role
from merge.recipe import MergeSettings
from merge.retention import retention_key, retention_limit
from merge.selection import NOTHING, Threshold, deal_ties, find_threshold, top_count
from merge.slices import wide_keys

Thresholds = dict[Role, Threshold]
_CODES = {"BF16": kernels.BF16, "F16": kernels.F16, "F32": kernels.F32}
_RULES: dict[Rule, int] = {
    "difference": kernels.DIFFERENCE,
    "intersection": kernels.INTERSECTION,
    "each": kernels.EACH,
    "all": kernels.ALL,
    "first": kernels.FIRST,
    "second": kernels.SECOND,
}
_COMBINATIONS: dict[Combination, int] = {
    "in_turn": kernels.IN_TURN,
    "summed": kernels.SUMMED,
    "averaged": kernels.AVERAGED,
    "elected": kernels.ELECTED,
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
    """Kept entries of the safety patch whose bits changed; the rest was erased by rounding."""
    changed_O: int  # noqa: N815
    changed: int
    """Entries whose bits changed, by either patch."""
    overflowed: int
    """Entries that left the range of the model's dtype."""
    norm_S: float  # noqa: N815
    """Of the whole delta."""
    norm_O: float  # noqa: N815
    kept_norm_S: float  # noqa: N815
    """Of the kept entries, before alpha."""
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
        counts, squares = np.zeros(9, np.int64), np.zeros((4, kernels.LANES))
        chosen = [thresholds.get(role, NOTHING) for role in ROLES]
        ties = np.array([threshold.ties for threshold in chosen], np.int64)
        streams = {role: retention_key(self._settings.seed, role, name) for role in ROLES}
        scales = [np.float32(scale / self._divisor) for scale in self._settings.scales_of(name)]
        for start, stop in self._slices(name):
            before = self._source.read("backbone", None, name, start, stop)
            after = self._source.scratch("merged", before.dtype.type, stop - start)
            # Keys come first: they may need the backbone's bits.
            arguments = []
            for role, threshold, scale in zip(ROLES, chosen, scales, strict=True):
                keys = self.keys(role, name, start, stop) if self._method.masked else _NO_KEYS
                delta = self._source.read("delta", role, name, start, stop)
                arguments += [delta, keys, threshold.key, streams[role], self._limit]
                arguments.append(scale)
            kernels.write_back(
                before, _CODES[entry.dtype], after, start, _RULES[self._method.rule],
                _COMBINATIONS[self._method.combination], *arguments, ties, counts, squares,
            )  # fmt: skip
            write(start, before, after)
        norms = [math.sqrt(math.fsum(row)) for row in squares]
        return TensorReport(entry.size, *(int(count) for count in counts), *norms)

    def _slices(self, name: str) -> Iterator[tuple[int, int]]:
        size = self._inputs.backbone[name].size
        for start in range(0, size, self._slice_values):
            yield start, min(start + self._slice_values, size)
