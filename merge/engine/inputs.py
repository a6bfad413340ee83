"""The inputs of a merge as bit patterns: slices from files, or arrays in memory."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from merge.engine.coverage import Coverage
from merge.io.dtypes import BITS
from merge.io.patch_directory import PatchDirectory, Role
from merge.io.tensor_files import TensorEntry, TensorIndex
from merge.io.tensor_reader import TensorReader

ROLES: tuple[Role, ...] = ("safety", "over_safety")
Kind = Literal["backbone", "delta", "importance"]


@dataclass(frozen=True)
class MergeInputs:
    """The headers of the three inputs, found to fit each other."""

    backbone_path: Path
    backbone: TensorIndex
    patches: dict[Role, PatchDirectory]
    coverage: Coverage

    @property
    def covered(self) -> tuple[str, ...]:
        """Names of the tensors that are merged, sorted."""
        return self.coverage.names

    def sources(self) -> Iterator[tuple[Kind, TensorIndex]]:
        """The five sources, and what they hold."""
        yield "backbone", self.backbone
        for patch in self.patches.values():
            yield "delta", patch.delta
            yield "importance", patch.importance


class BitSource(Protocol):
    """Gives slices of inputs that were checked: finite, and importances not below zero."""

    def read(self, kind: Kind, role: Role | None, name: str, start: int, stop: int) -> np.ndarray:
        """Bit patterns of values ``start`` to ``stop`` of a flattened tensor (see ``BITS``).

        The array belongs to the source, and is valid until the next read of that kind and role
        in the same thread.
        """
        ...

    def scratch(self, slot: str, dtype: type, size: int) -> np.ndarray:
        """An uninitialised array to use again and again in this thread."""
        ...


class Workspace(threading.local):
    """One growing buffer a slot and thread: no allocation in the loop over tensors."""

    def __init__(self) -> None:
        self._buffers: dict[str, np.ndarray] = {}

    def array(self, slot: str, dtype: np.dtype | type, size: int) -> np.ndarray:
        """An array of ``size`` values in the slot's buffer."""
        dtype = np.dtype(dtype)
        needed = size * dtype.itemsize
        buffer = self._buffers.get(slot)
        if buffer is None or buffer.size < needed:
            self._buffers.pop(slot, None)
            buffer = self._buffers[slot] = np.empty(needed, np.uint8)
        return buffer[:needed].view(dtype)


class FileSource:
    """Reads the inputs from their files, and remembers the last slice of each in each thread.

    Args:
        kept_bytes: of slices that ``keep`` may hold.
    """

    def __init__(self, inputs: MergeInputs, kept_bytes: int = 0) -> None:
        self._inputs = inputs
        self._workspace = Workspace()
        self._held = _Held()
        self._kept: dict[_Place, np.ndarray] = {}
        self._room = kept_bytes
        self._lock = threading.Lock()
        self._readers: dict[tuple[Kind, Role | None], TensorReader] = {
            ("backbone", None): TensorReader(inputs.backbone)
        }
        for role, patch in inputs.patches.items():
            self._readers["delta", role] = TensorReader(patch.delta)
            self._readers["importance", role] = TensorReader(patch.importance)

    def read(self, kind: Kind, role: Role | None, name: str, start: int, stop: int) -> np.ndarray:
        """See ``BitSource``.

        Raises:
            UserError: a file cannot be read any more.
        """
        slice_held, array = self._held.slices.get((kind, role), (None, None))
        if array is not None and slice_held == (name, start, stop):
            return array
        with self._lock:
            bits = self._kept.pop((kind, role, name, start, stop), None)
            self._room += 0 if bits is None else bits.nbytes
        if bits is not None:
            self._held.slices[kind, role] = ((name, start, stop), bits)
            return bits
        dtype = BITS[self.entry(kind, role, name).dtype]
        bits = self._workspace.array(f"{kind} {role}", dtype, stop - start)
        self._held.slices.pop((kind, role), None)
        self._readers[kind, role].read(name, bits, start)
        self._held.slices[kind, role] = ((name, start, stop), bits)
        return bits

    def keep(
        self, kind: Kind, role: Role | None, name: str, start: int, stop: int, bits: np.ndarray
    ) -> None:
        """Hold a slice for the next read of it, by any thread, where there is room."""
        with self._lock:
            if bits.nbytes <= self._room:
                self._room -= bits.nbytes
                self._kept[kind, role, name, start, stop] = bits.copy()

    def entry(self, kind: Kind, role: Role | None, name: str) -> TensorEntry:
        """Where a tensor lies."""
        return self._readers[kind, role].index[name]

    def scratch(self, slot: str, dtype: type, size: int) -> np.ndarray:
        """See ``BitSource``."""
        return self._workspace.array(slot, dtype, size)

    def close(self) -> None:
        """Close all files."""
        for reader in self._readers.values():
            reader.close()


_Place = tuple[Kind, Role | None, str, int, int]


class _Held(threading.local):
    def __init__(self) -> None:
        self.slices: dict[tuple[Kind, Role | None], tuple[tuple[str, int, int], np.ndarray]] = {}
