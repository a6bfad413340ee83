"""The inputs of a merge as checked bit patterns: slices from files, or arrays in memory."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from merge import count_kernels
from merge.dtypes import BITS
from merge.errors import UserError
from merge.patch_directory import PatchDirectory, Role
from merge.tensor_files import TensorIndex
from merge.tensor_reader import TensorReader

ROLES: tuple[Role, ...] = ("safety", "over_safety")
Kind = Literal["backbone", "delta", "importance"]
_SIGN = {"BF16": 0x8000, "F16": 0x8000, "F32": 0x80000000}
_INFINITY = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000}


@dataclass(frozen=True)
class MergeInputs:
    """The headers of the three inputs, found to fit each other."""

    backbone_path: Path
    backbone: TensorIndex
    patches: dict[Role, PatchDirectory]
    covered: tuple[str, ...]
    """Names of the tensors that are merged, sorted."""

    def index(self, kind: Kind, role: Role | None) -> TensorIndex:
        """The tensors of one of the five sources."""
        if role is None:
            return self.backbone
        patch = self.patches[role]
        return patch.delta if kind == "delta" else patch.importance


class BitSource(Protocol):
    """Gives slices of the inputs; finite, and importances not negative."""

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
    """Reads the inputs from their files, and remembers the last slice of each in each thread."""

    def __init__(self, inputs: MergeInputs) -> None:
        self._inputs = inputs
        self._workspace = Workspace()
        self._held = _Held()
        self._readers: dict[tuple[Kind, Role | None], TensorReader] = {
            ("backbone", None): TensorReader(inputs.backbone)
        }
        for role, patch in inputs.patches.items():
            self._readers["delta", role] = TensorReader(patch.delta)
            self._readers["importance", role] = TensorReader(patch.importance)

    def read(self, kind: Kind, role: Role | None, name: str, start: int, stop: int) -> np.ndarray:
        """See ``BitSource``.

        Raises:
            UserError: unreadable, NaN or infinite, or a negative importance.
        """
        slice_held, array = self._held.slices.get((kind, role), (None, None))
        if array is not None and slice_held == (name, start, stop):
            return array
        reader = self._readers[kind, role]
        entry = reader.index[name]
        bits = self._workspace.array(f"{kind} {role}", BITS[entry.dtype], stop - start)
        self._held.slices.pop((kind, role), None)
        reader.read(name, bits, start)
        problem = check_bits(bits, entry.dtype, kind)
        if problem:
            raise UserError(f"{entry.file}: tensor '{name}' {problem}")
        self._held.slices[kind, role] = ((name, start, stop), bits)
        return bits

    def scratch(self, slot: str, dtype: type, size: int) -> np.ndarray:
        """See ``BitSource``."""
        return self._workspace.array(slot, dtype, size)

    def close(self) -> None:
        """Close all files."""
        for reader in self._readers.values():
            reader.close()


class _Held(threading.local):
    def __init__(self) -> None:
        self.slices: dict[tuple[Kind, Role | None], tuple[tuple[str, int, int], np.ndarray]] = {}


def check_bits(bits: np.ndarray, dtype: str, kind: Kind) -> str | None:
    """What is wrong with the values, or None. Turns an importance's negative zeros to zeros."""
    sign, infinity = _SIGN[dtype], _INFINITY[dtype]
    kind_of_bits = bits.dtype.type
    mask = kind_of_bits(sign - 1)
    if count_kernels.largest_magnitude(bits, mask) >= infinity:
        return "holds NaN or infinity; its training or export went wrong"
    if kind != "importance":
        return None
    largest = count_kernels.largest_magnitude(bits, kind_of_bits(sign | (sign - 1)))
    if largest > sign:
        return "holds a negative importance; export scores that are not negated"
    if largest == sign:
        bits[bits == sign] = 0
    return None
