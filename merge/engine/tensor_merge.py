"""Merging one tensor: its labels, retention and write-back, slice by slice."""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from merge.engine.draws import draw_key, retention_limit
from merge.engine.inputs import ROLES, BitSource, MergeInputs
from merge.engine.ranking import CODES, Ranker, Thresholds
from merge.engine.selection import NOTHING, Threshold
from merge.io.tensor_files import TensorEntry
from merge.kernels import counting as count_kernels
from merge.kernels import merging as kernels
from merge.kernels import sets as set_kernels
from merge.methods import Combination, Rule
from merge.settings import MergeSettings

_TAKEN: dict[Rule, tuple[int, int, int, int]] = {
    "difference": (0, 1, 2, 0),
    "intersection": (0, 0, 0, 3),
    "each": (0, 1, 2, 3),
    "all": (3, 3, 3, 3),
    "first": (1, 1, 1, 1),
    "second": (2, 2, 2, 2),
}
"""By rule, see ``TensorPlan.taken``."""
_COMBINATIONS: dict[Combination, int] = {
    "in_turn": kernels.IN_TURN,
    "summed": kernels.SUMMED,
    "averaged": kernels.AVERAGED,
    "elected": kernels.ELECTED,
    "by_set": kernels.BY_SET,
}
_NO_KEYS = np.empty(0, np.uint16)
_NEAREST = np.empty(0, np.uint32)


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


@dataclass(frozen=True)
class TensorPlan:
    """How one tensor is merged."""

    entry: TensorEntry
    """Place of the backbone's tensor."""
    tops: tuple[Threshold, Threshold]
    """Top sets, in the order of ``ROLES``."""
    taken: np.ndarray
    """Uint8 flags of the patches (1 safety, 2 over-safety) that take an entry in no top set, in the
    safety patch's, in the over-safety patch's, in both."""
    scales: np.ndarray
    """Fp32 [2, 3], see ``MergeSettings.set_scales_of``."""
    streams: tuple[np.ndarray, np.ndarray]
    """Keys of the retention draws of both patches."""
    rounding: np.ndarray
    """Key of the draws of stochastic rounding; empty where values are rounded to nearest."""

    @property
    def ties(self) -> np.ndarray:
        """How many entries of either patch that equal its threshold are in its top set: int64."""
        return np.array([top.ties for top in self.tops], np.int64)


@dataclass
class Tally:
    """Sums over slices of one tensor, which may come in any order and from any thread."""

    counts: np.ndarray = field(default_factory=lambda: np.zeros(kernels.COUNTS, np.int64))
    tops: np.ndarray = field(default_factory=lambda: np.zeros(3, np.int64))
    squares: list[np.ndarray] = field(default_factory=list)
    """Fp64 [blocks, 4] of each slice."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def report(self, size: int) -> TensorReport:
        """The report of a tensor of that many entries, all of whose slices were added."""
        rows = np.concatenate([np.zeros((1, 4)), *self.squares]).T.tolist()
        # Exact sums, so the same in any order.
        norms = [math.sqrt(math.fsum(row)) for row in rows]
        return TensorReport(size, *self.tops.tolist(), *self.counts.tolist(), *norms)


class TensorMerger(Ranker):
    """Merges tensors of one set of inputs under one set of settings; shared by threads."""

    def __init__(
        self, inputs: MergeInputs, source: BitSource, settings: MergeSettings, slice_values: int
    ) -> None:
        super().__init__(inputs, source, settings, slice_values)
        drawn = self._method.drawn
        rescaled = drawn and (settings.rescale or self._method.always_rescaled)
        self._divisor = settings.retention if rescaled else 1.0
        self._limit = retention_limit(settings.retention if drawn else 1.0)

    def plan(
        self, name: str, thresholds: Thresholds, taken: Sequence[int] | None = None
    ) -> TensorPlan:
        """How a tensor is merged, given its top sets.

        Args:
            taken: see ``TensorPlan``; by default as the method wants it.
        """
        scales = np.array(self._settings.set_scales_of(name)) / self._divisor
        scales = scales.astype(np.float32)
        if taken is None:
            rule = self._method.rule
            taken = _taken_by_set(scales) if rule == "by_set" else _TAKEN[rule]
        safety, over_safety = (thresholds.get(role, NOTHING) for role in ROLES)
        seed = self._settings.seed
        first, second = (draw_key(seed, role, name) for role in ROLES)
        drawn = self._settings.rounding == "stochastic"
        rounding = draw_key(seed, "rounding", name) if drawn else _NEAREST
        flags = np.array(taken, np.uint8)
        entry = self._inputs.backbone[name]
        return TensorPlan(entry, (safety, over_safety), flags, scales, (first, second), rounding)

    def slice_keys(self, name: str, start: int, stop: int) -> list[np.ndarray]:
        """Both patches' scores of a slice; empty where the method ranks nothing."""
        return [self.keys(role, name, start, stop) if self.ranked else _NO_KEYS for role in ROLES]

    def count_ties(
        self, plan: TensorPlan, keys: Sequence[np.ndarray], left: np.ndarray
    ) -> np.ndarray:
        """How many of a slice's scores equal the thresholds; int64, 0 where no ties are left."""
        counts = [
            count_kernels.count_equal(of_patch, top.key) if rest else 0
            for of_patch, top, rest in zip(keys, plan.tops, left.tolist(), strict=True)
        ]
        return np.array(counts, np.int64)

    def merge_slice(
        self,
        plan: TensorPlan,
        start: int,
        stop: int,
        keys: Sequence[np.ndarray],
        ties: np.ndarray,
        tally: Tally,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Merge one slice.

        Args:
            keys: of ``slice_keys``.
            ties: int64, how many equal scores from this slice on are in the top sets; counted down.

        Returns:
            Its bits before and after, valid until the thread's next slice.
        """
        tops = np.zeros(3, np.int64)
        labels = self._label(plan, start, stop, keys, ties, tops)
        name, scratch = plan.entry.name, self._source.scratch
        before = self._source.read("backbone", None, name, start, stop)
        after = scratch("merged", before.dtype.type, stop - start)
        blocks = -(-(stop - start) // kernels.BLOCK)
        squares = scratch("squares", np.float64, blocks * 4 * kernels.LANES)
        squares = squares.reshape(blocks, 4, kernels.LANES)
        squares[:] = 0
        counts, sums = np.zeros(kernels.COUNTS, np.int64), np.zeros((blocks, 4))
        changes = []
        for role, of_role in zip(ROLES, plan.scales, strict=True):
            changes += [self._source.read("delta", role, name, start, stop), of_role]
        kernels.write_back(
            before, CODES[plan.entry.dtype], start, plan.rounding, after, labels,
            _COMBINATIONS[self._method.combination], *changes, counts, squares,
            scratch("values", np.float32, 4 * kernels.CHUNK).reshape(4, -1),
            scratch("flags", np.uint8, 2 * kernels.CHUNK).reshape(2, -1),
            scratch("draws", np.uint32, kernels.CHUNK),
        )  # fmt: skip
        kernels.add_lanes(squares, sums)
        with tally.lock:
            tally.counts += counts
            tally.tops += tops
            tally.squares.append(sums)
        return before, after

    def merge(
        self,
        name: str,
        thresholds: Thresholds,
        write: Callable[[int, np.ndarray, np.ndarray], None],
    ) -> TensorReport:
        """Merge one tensor in this thread.

        Args:
            write: called for each slice in order with its start, its bits before and its bits
                after, which it must not keep.
        """
        plan, tally = self.plan(name, thresholds), Tally()
        ties = plan.ties
        for start, stop in self.slices(name):
            keys = self.slice_keys(name, start, stop)
            write(start, *self.merge_slice(plan, start, stop, keys, ties, tally))
        return tally.report(plan.entry.size)

    def labels(
        self, name: str, thresholds: Thresholds, taken: Sequence[int]
    ) -> Iterator[tuple[int, int, np.ndarray]]:
        """Which sets the entries of one tensor are in, and who takes and keeps them.

        Args:
            taken: see ``TensorPlan``.

        Yields:
            For each slice in order its start, its stop, and its labels, uint8 as
            ``merge.kernels.sets`` says; valid until the next.
        """
        plan = self.plan(name, thresholds, taken)
        ties, tops = plan.ties, np.zeros(3, np.int64)
        for start, stop in self.slices(name):
            keys = self.slice_keys(name, start, stop)
            yield start, stop, self._label(plan, start, stop, keys, ties, tops)

    def _label(
        self,
        plan: TensorPlan,
        start: int,
        stop: int,
        keys: Sequence[np.ndarray],
        ties: np.ndarray,
        tops: np.ndarray,
    ) -> np.ndarray:
        """A slice's labels; top_S, top_O and overlap are added to ``tops``."""
        packed = self._source.scratch("labels", np.uint32, -(-(stop - start) // 4))
        of_patches = []
        for of_patch, top, stream in zip(keys, plan.tops, plan.streams, strict=True):
            of_patches += [of_patch, top.key, stream, self._limit]
        set_kernels.label_sets(packed, stop - start, start, plan.taken, *of_patches, ties, tops)
        return packed.view(np.uint8)[: stop - start]


def _taken_by_set(scales: np.ndarray) -> list[int]:
    """Who takes an entry by the scales of its sets, fp32 [2, 3]: a scale of 0 takes nothing."""
    (own_s, shared_s, rest_s), (own_o, shared_o, rest_o) = (scales != 0).astype(int).tolist()
    return [
        rest_s | rest_o << 1,
        own_s | rest_o << 1,
        rest_s | own_o << 1,
        shared_s | shared_o << 1,
    ]
