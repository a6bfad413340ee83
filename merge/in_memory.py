"""Merging again and again in memory, for a search over settings.

The inputs are mapped, not copied: processes that search together share one copy in the page cache,
and where memory is short the kernel lets pages go.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from merge.common.errors import UserError
from merge.common.progress import Progress
from merge.engine.checks import check_inputs
from merge.engine.input_check import check_bits
from merge.engine.inputs import ROLES, Kind, MergeInputs, Workspace
from merge.engine.ranking import Thresholds
from merge.engine.selection import Threshold
from merge.engine.set_products import Selection, SetProducts, selection_of
from merge.engine.slices import CACHED_VALUES
from merge.engine.tensor_merge import TensorMerger
from merge.io.dtypes import BITS
from merge.io.patch_directory import Role
from merge.io.tensor_files import TensorEntry, TensorIndex
from merge.settings import MergeSettings, method_of

_MOST_THREADS = 16
"""Each has a merged tensor in hand."""


class _MappedSource:
    """All covered tensors of the inputs, mapped and checked once."""

    def __init__(self, inputs: MergeInputs, ranks: bool) -> None:
        self._workspace = Workspace()
        self._arrays: dict[tuple[Kind, Role | None, str], np.ndarray] = {}
        sources = list(_sources(inputs, ranks))
        size = sum(index[name].bytes for _, _, index in sources for name in inputs.covered)
        with Progress("reading the patches", size, "B") as progress:
            for kind, role, index in sources:
                for name in inputs.covered:
                    entry = index[name]
                    bits = _mapped(entry)
                    problem = check_bits(bits, entry.dtype, kind)
                    if problem is not None:
                        raise UserError(f"{entry.file}: tensor '{name}' holds {problem}")
                    self._arrays[kind, role, name] = bits
                    progress.advance(entry.bytes)

    def read(self, kind: Kind, role: Role | None, name: str, start: int, stop: int) -> np.ndarray:
        return self._arrays[kind, role, name][start:stop]

    def scratch(self, slot: str, dtype: type, size: int) -> np.ndarray:
        return self._workspace.array(slot, dtype, size)


def _sources(inputs: MergeInputs, ranks: bool) -> Iterator[tuple[Kind, Role | None, TensorIndex]]:
    yield "backbone", None, inputs.backbone
    for role in ROLES:
        yield "delta", role, inputs.patches[role].delta
        if ranks:
            yield "importance", role, inputs.patches[role].importance


def _mapped(entry: TensorEntry) -> np.ndarray:
    """A tensor's values as bits, one-dimensional."""
    dtype = BITS[entry.dtype]
    if not entry.size:
        return np.empty(0, dtype)
    try:
        # Copy on write, though nothing writes: the compiled loops know no read-only arrays.
        bits = np.asarray(np.memmap(entry.file, dtype, "c", entry.offset, (entry.size,)))
    except (OSError, ValueError) as error:
        raise UserError(f"{entry.file}: cannot be read ({error})") from None
    # A header of odd length shifts the values behind it, where compiled loops must not read.
    return bits if bits.flags.aligned else bits.copy()


class _ThresholdMerger(TensorMerger):
    """Finds each top set once; ``threshold_cache`` outlives it, and serves later mergers."""

    def __init__(
        self,
        inputs: MergeInputs,
        source: _MappedSource,
        settings: MergeSettings,
        threshold_cache: dict[tuple[object, ...], Threshold],
    ) -> None:
        super().__init__(inputs, source, settings, CACHED_VALUES)
        self._threshold_cache = threshold_cache
        # What the top sets depend on.
        self._score = "magnitude" if method_of(settings).by_magnitude else settings.score

    def threshold(
        self, role: Role, names: Sequence[str], count: int, *how: Any, **more: Any
    ) -> Threshold:
        place = (self._score, role, tuple(names), count)
        if place not in self._threshold_cache:
            self._threshold_cache[place] = super().threshold(role, names, count, *how, **more)
        return self._threshold_cache[place]


@dataclass
class LoadedInputs:
    """A backbone and its two patches in memory, merged as often as one likes."""

    inputs: MergeInputs
    _source: _MappedSource
    _patterns: tuple[tuple[str, ...] | None, tuple[str, ...]]
    """Which tensors are covered, as ``include`` and ``exclude`` say it."""
    _thresholds: dict[tuple[object, ...], Threshold] = field(default_factory=dict)
    _products: tuple[Selection, SetProducts | None] = ((), None)

    @classmethod
    def read(
        cls,
        backbone: Path,
        safety: Path,
        over_safety: Path,
        settings: MergeSettings,
        ranks: bool = True,
    ) -> "LoadedInputs":
        """Read everything that ``settings`` covers.

        Args:
            ranks: whether methods that rank by importance will merge; else none is read.

        Raises:
            UserError: the inputs do not fit each other, or hold wrong values.
        """
        inputs = check_inputs(backbone, safety, over_safety, settings)
        return cls(inputs, _MappedSource(inputs, ranks), (settings.include, settings.exclude))

    def backbone(self) -> Iterator[tuple[str, np.ndarray]]:
        """The covered tensors as they were, in the form that ``merge`` gives."""
        for name in self.inputs.covered:
            bits = self._source.read("backbone", None, name, 0, self.inputs.backbone[name].size)
            yield name, _shaped(bits, self.inputs.backbone[name])

    def merge(self, settings: MergeSettings) -> Iterator[tuple[str, np.ndarray]]:
        """The merged tensors, bit for bit what ``python -m merge build`` writes, one at a time.

        Only covered tensors, in the backbone's shapes; bf16 and fp16 as uint16 bit patterns, fp32
        as float32. Top sets are kept for the next call. All cores merge ahead of the caller, a
        tensor each.

        Raises:
            ValueError: ``settings`` cover other tensors than those that were read.
        """
        self._check(settings)
        merger = _ThresholdMerger(self.inputs, self._source, settings, self._thresholds)
        model = merger.model_thresholds() if settings.scope == "model" else {}

        def merged(name: str) -> tuple[str, np.ndarray]:
            thresholds = model[name] if model else merger.thresholds(name)
            return name, _merge_tensor(merger, self.inputs.backbone[name], thresholds)

        threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
        with ThreadPoolExecutor(threads) as pool:
            ahead: deque[Future[tuple[str, np.ndarray]]] = deque()
            for name in self.inputs.covered:
                ahead.append(pool.submit(merged, name))
                if len(ahead) > threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def set_products(self, settings: MergeSettings) -> SetProducts:
        """Derivatives of a value by the scales of method ``by_set``: see ``SetProducts.of``.

        Which entries are in a set and kept depends on score, scope, top rates, retention and seed;
        method and scales do not matter here. The labels of the last such selection are kept for the
        next call, a byte an entry. Threads may call this at once; the loops release the lock.

        Raises:
            ValueError: ``settings`` cover other tensors than those that were read.
        """
        self._check(settings)
        selection = selection_of(settings)
        last, products = self._products
        if products is None or last != selection:
            chosen = settings.model_copy(update={"method": "by_set"})
            merger = _ThresholdMerger(self.inputs, self._source, chosen, self._thresholds)
            divisor = settings.retention if settings.rescale else 1.0
            products = SetProducts(self.inputs, self._source, merger, settings.scope, divisor)
            self._products = selection, products
        return products

    def _check(self, settings: MergeSettings) -> None:
        if (settings.include, settings.exclude) != self._patterns:
            raise ValueError("include and exclude must stay as they were when the inputs were read")


def _merge_tensor(merger: TensorMerger, entry: TensorEntry, thresholds: Thresholds) -> np.ndarray:
    out = np.empty(entry.size, BITS[entry.dtype])

    def write(start: int, before: np.ndarray, after: np.ndarray) -> None:
        out[start : start + after.size] = after

    merger.merge(entry.name, thresholds, write)
    return _shaped(out, entry)


def _shaped(bits: np.ndarray, entry: TensorEntry) -> np.ndarray:
    return (bits.view(np.float32) if entry.dtype == "F32" else bits).reshape(entry.shape)
