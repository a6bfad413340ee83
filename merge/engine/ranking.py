"""The scores of entries, and the top sets that follow from them, slice by slice."""

import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from merge.engine.inputs import ROLES, BitSource, Kind, MergeInputs
from merge.engine.selection import (
    NOTHING,
    DigitCounts,
    Threshold,
    deal_ties,
    find_trailing,
    guess_near,
    top_count,
)
from merge.engine.slices import wide_keys
from merge.io.patch_directory import Role
from merge.kernels import conversion as kernels
from merge.kernels import counting as count_kernels
from merge.settings import MergeSettings, method_of

Thresholds = dict[Role, Threshold]
CODES = {"BF16": kernels.BF16, "F16": kernels.F16, "F32": kernels.F32}
Seen = Callable[[Role, str, int, int], object]
"""Told a patch, a tensor, and start and stop of each slice that was ranked."""
Each = Callable[[Role, Callable[[str], object], Sequence[str]], object]
"""Calls a function with the name of each tensor of a patch, in any order and thread."""
_SCORES = {"weight": kernels.WEIGHT, "delta": kernels.DELTA}
_RUNS_OF_ONE, _RUNS_OF_MANY, _RUN_VALUES = 32, 256, 512
"""Where a sample of one tensor, or of several, is taken; and how much there."""


def _nothing_seen(role: Role, name: str, start: int, stop: int) -> None:
    pass


def _one_by_one(role: Role, work: Callable[[str], object], names: Sequence[str]) -> None:
    for name in names:
        work(name)


class Ranker:
    """Ranks the entries of one set of inputs under one set of settings; shared by threads.

    Args:
        slice_values: how many values of a tensor are in hand at a time, a multiple of
            ``merging.BLOCK``. Results do not depend on it.
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
        self._wide = {role: wide_keys(inputs, role, self._method) for role in ROLES}

    @property
    def ranked(self) -> Kind | None:
        """Which of a patch's sources is read to rank it; None where the method ranks nothing."""
        if not self._method.masked:
            return None
        return "delta" if self._method.by_magnitude else "importance"

    def thresholds(self, name: str, seen: Seen = _nothing_seen) -> Thresholds:
        """The top sets of one tensor by itself (``scope=tensor``)."""
        return {role: self.own_threshold(role, name, seen) for role in ROLES if self.ranked}

    def own_threshold(self, role: Role, name: str, seen: Seen = _nothing_seen) -> Threshold:
        """One patch's top set of one tensor by itself."""
        count = top_count(self._rates[role], self._inputs.backbone[name].size)
        return self.threshold(role, [name], count, seen)

    def model_thresholds(
        self, seen: Seen = _nothing_seen, each: Each = _one_by_one
    ) -> dict[str, Thresholds]:
        """The top sets over all covered tensors together (``scope=model``), for each of them.

        Args:
            each: goes through the tensors of one pass over a patch.
        """
        names = self._inputs.covered
        found: dict[str, Thresholds] = {name: {} for name in names}
        size = sum(self._inputs.backbone[name].size for name in names)
        for role in ROLES if self.ranked else ():
            count = top_count(self._rates[role], size)
            threshold = self.threshold(role, names, count, seen, each)
            equal = threshold.equal
            if equal is None:
                equal = {name: self._count_equal(role, name, threshold.key) for name in names}
            for name, dealt in deal_ties(threshold, equal).items():
                found[name][role] = dealt
        return found

    def threshold(
        self,
        role: Role,
        names: Sequence[str],
        count: int,
        seen: Seen = _nothing_seen,
        each: Each = _one_by_one,
    ) -> Threshold:
        """The top ``count`` of one patch's entries over the named tensors, in one pass mostly."""
        if count == 0:
            return NOTHING
        wide = self._wide[role]
        near = self._near(role, names, count) if wide else None
        total, lock = DigitCounts(near), threading.Lock()
        by_name: dict[str, tuple[np.ndarray, np.ndarray]] = {}

        def rank(name: str) -> None:
            own = total if len(names) == 1 else DigitCounts(near)
            for start, stop in self.slices(name):
                own.add(self.keys(role, name, start, stop))
                seen(role, name, start, stop)
            if own is not total:
                digits = np.flatnonzero(own.leading)
                with lock:
                    total.merge(own)
                    by_name[name] = digits, own.leading[digits]

        each(role, rank, names)
        found = total.threshold(count, wide)
        if found is None:
            return find_trailing(lambda: self._all_keys(role, names), total, count)
        if wide or not by_name:
            return found
        equal = {name: int(of[digits == found.key].sum()) for name, (digits, of) in by_name.items()}
        return Threshold(found.key, found.ties, equal)

    def _near(self, role: Role, names: Sequence[str], count: int) -> int | None:
        """Where the threshold will be, by a sample; None where a second pass reads no file."""
        sizes = [self._inputs.backbone[name].size for name in names]
        if len(names) == 1 and sizes[0] <= self._slice_values:
            return None
        ends = np.cumsum(sizes)
        runs = _RUNS_OF_ONE if len(names) == 1 else _RUNS_OF_MANY
        sample: list[np.ndarray] = []
        for place in np.linspace(0, ends[-1], runs, endpoint=False).astype(int).tolist():
            number = int(np.searchsorted(ends, place, "right"))
            start = place - int(ends[number]) + sizes[number]
            stop = min(start + _RUN_VALUES, sizes[number])
            sample.append(self.keys(role, names[number], start, stop).copy())
        return guess_near(np.concatenate(sample), count / int(ends[-1]))

    def _all_keys(self, role: Role, names: Sequence[str]) -> Iterator[np.ndarray]:
        for name in names:
            for start, stop in self.slices(name):
                yield self.keys(role, name, start, stop)

    def _count_equal(self, role: Role, name: str, key: int) -> int:
        return sum(count_kernels.count_equal(keys, key) for keys in self._all_keys(role, [name]))

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
            CODES[self._inputs.backbone[name].dtype],
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

    def slices(self, name: str) -> Iterator[tuple[int, int]]:
        """Start and stop of a tensor's slices, in order."""
        size = self._inputs.backbone[name].size
        for start in range(0, size, self._slice_values):
            yield start, min(start + self._slice_values, size)
