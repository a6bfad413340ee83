"""Merging again and again in memory, for a search over settings."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from merge.checks import check_inputs
from merge.dtypes import BITS
from merge.errors import UserError
from merge.input_check import check_bits
from merge.inputs import ROLES, FileSource, Kind, MergeInputs, Workspace
from merge.methods import method_of
from merge.patch_directory import Role
from merge.recipe import MergeSettings
from merge.selection import Threshold
from merge.tensor_merge import TensorMerger, Thresholds

_WHOLE = 1 << 40


class _ArraySource:
    """All covered tensors of the inputs, read and checked once."""

    def __init__(self, inputs: MergeInputs) -> None:
        self._workspace = Workspace()
        self._arrays: dict[tuple[Kind, Role | None, str], np.ndarray] = {}
        files = FileSource(inputs)
        for name in inputs.covered:
            size = inputs.backbone[name].size
            for kind, role in _sources():
                bits = files.read(kind, role, name, 0, size)
                entry = files.entry(kind, role, name)
                problem = check_bits(bits, entry.dtype, kind)
                if problem is not None:
                    raise UserError(f"{entry.file}: tensor '{name}' holds {problem}")
                self._arrays[kind, role, name] = bits.copy()
        files.close()

    def read(self, kind: Kind, role: Role | None, name: str, start: int, stop: int) -> np.ndarray:
        return self._arrays[kind, role, name][start:stop]

    def scratch(self, slot: str, dtype: type, size: int) -> np.ndarray:
        return self._workspace.array(slot, dtype, size)


def _sources() -> Iterator[tuple[Kind, Role | None]]:
    yield "backbone", None
    for role in ROLES:
        yield "delta", role
        yield "importance", role


class _Caches:
    """Scores and top sets that earlier merges have computed."""

    def __init__(self) -> None:
        self.keys: dict[tuple[str, Role, str], np.ndarray] = {}
        self.thresholds: dict[tuple[str, Role, tuple[str, ...], int], Threshold] = {}


class _CachingMerger(TensorMerger):
    def __init__(
        self, inputs: MergeInputs, source: _ArraySource, settings: MergeSettings, caches: _Caches
    ) -> None:
        super().__init__(inputs, source, settings, _WHOLE)
        self._caches = caches
        # What the keys depend on.
        self._score = "magnitude" if method_of(settings).by_magnitude else settings.score

    def keys(self, role: Role, name: str, start: int, stop: int) -> np.ndarray:
        place = (self._score, role, name)
        if place not in self._caches.keys:
            self._caches.keys[place] = super().keys(role, name, start, stop).copy()
        return self._caches.keys[place]

    def threshold(
        self, role: Role, names: tuple[str, ...] | list[str], count: int, *advance: object
    ) -> Threshold:
        place = (self._score, role, tuple(names), count)
        if place not in self._caches.thresholds:
            self._caches.thresholds[place] = super().threshold(role, names, count)
        return self._caches.thresholds[place]


@dataclass
class LoadedInputs:
    """A backbone and its two patches in memory, merged as often as one likes."""

    inputs: MergeInputs
    _source: _ArraySource
    _caches: _Caches

    @classmethod
    def read(
        cls, backbone: Path, safety: Path, over_safety: Path, settings: MergeSettings
    ) -> "LoadedInputs":
        """Read everything that ``settings`` covers.

        Raises:
            UserError: the inputs do not fit each other, or hold wrong values.
        """
        inputs = check_inputs(backbone, safety, over_safety, settings)
        return cls(inputs, _ArraySource(inputs), _Caches())

    def merge(self, settings: MergeSettings) -> dict[str, np.ndarray]:
        """The merged tensors, bit for bit what ``python -m merge build`` writes.

        Only covered tensors, in the backbone's shapes; bf16 and fp16 as uint16 bit patterns, fp32
        as float32. Scores and top sets are kept for the next call.

        Raises:
            ValueError: ``settings`` cover other tensors than those that were read.
        """
        covered = tuple(sorted(name for name in self.inputs.backbone if settings.covers(name)))
        if covered != self.inputs.covered:
            raise ValueError("include and exclude must stay as they were when the inputs were read")
        merger = _CachingMerger(self.inputs, self._source, settings, self._caches)
        model = merger.model_thresholds() if settings.scope == "model" else {}
        merged: dict[str, np.ndarray] = {}
        for name in covered:
            merged[name] = _merge_tensor(
                self.inputs, merger, name, model[name] if model else merger.thresholds(name)
            )
        return merged


def _merge_tensor(
    inputs: MergeInputs, merger: TensorMerger, name: str, thresholds: Thresholds
) -> np.ndarray:
    entry = inputs.backbone[name]
    out = np.empty(entry.size, BITS[entry.dtype])

    def write(start: int, before: np.ndarray, after: np.ndarray) -> None:
        out[start : start + after.size] = after

    merger.merge(name, thresholds, write)
    return (out.view(np.float32) if entry.dtype == "F32" else out).reshape(entry.shape)
