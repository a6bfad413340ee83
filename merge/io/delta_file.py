"""The delta file: what a patch changed, small, and good for both directions.

A safetensors file. For each part of at most 2**20 values in which a tensor changed it holds
``NAME/START.gaps`` (uint8, see ``merge.kernels.delta.encode_changes``) and ``NAME/START.xor``
(uint16 or uint32, old XOR new bits), START being the part's first flat index. Its metadata has the
hashes of both models (``merge.io.model_hash``), so applying it to a third one is refused.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from merge.common.errors import UserError
from merge.common.files import atomic_writer
from merge.common.progress import Progress
from merge.io.dtypes import BITS
from merge.io.model_hash import combine_lines, tensor_line
from merge.io.tensor_files import TensorEntry, TensorIndex, read_header
from merge.io.tensor_reader import TensorReader
from merge.io.tensor_stream import header_bytes
from merge.kernels import delta as delta_kernels

PART_VALUES = 1 << 20
_FORMAT = "safepatch 1"
_ENTRY_ROOM = 160
"""Header bytes of one entry besides its name, at most."""


def write_delta_file(path: Path, backbone: TensorIndex, patched: TensorIndex) -> int:
    """Compare two models of the same tensors and write what differs.

    Memory: a few parts, whatever the models' size.

    Returns:
        How many values differ.

    Raises:
        UserError: a file cannot be read or written.
    """
    parts = {name: -(-entry.size // PART_VALUES) for name, entry in backbone.items()}
    room = 1024 + sum(2 * count * (len(name) + _ENTRY_ROOM) for name, count in parts.items())
    size = sum(entry.bytes for entry in backbone.values())
    with (
        TensorReader(backbone) as old,
        TensorReader(patched) as new,
        atomic_writer(path) as file,
        Progress("delta file", size, "B") as progress,
    ):
        file.write(bytes(room))
        comparison = _Comparison(old, new, file)
        for name in backbone:
            comparison.add(name)
            progress.advance(backbone[name].bytes)
        metadata = {
            "format": _FORMAT,
            "backbone_sha256": combine_lines(comparison.old_lines),
            "patched_sha256": combine_lines(comparison.new_lines),
        }
        file.seek(0)
        file.write(header_bytes(comparison.written, metadata, room))
    return comparison.changed


class _Comparison:
    def __init__(self, old: TensorReader, new: TensorReader, file: BinaryIO) -> None:
        self._readers = (old, new)
        self._file = file
        self._position = 0
        self.old_lines: dict[str, str] = {}
        self.new_lines: dict[str, str] = {}
        self.written: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
        self.changed = 0

    def add(self, name: str) -> None:
        """Compare one tensor part by part, and hash both sides."""
        entries = [reader.index[name] for reader in self._readers]
        digests = hashlib.sha256(), hashlib.sha256()
        dtype = BITS.get(entries[0].dtype)
        unit = np.dtype(np.uint8) if dtype is None else dtype
        values = entries[0].bytes // unit.itemsize
        for start in range(0, values, PART_VALUES):
            sides = [np.empty(min(PART_VALUES, values - start), unit) for _ in self._readers]
            for reader, side, digest in zip(self._readers, sides, digests, strict=True):
                reader.read(name, side, start)
                digest.update(side.view(np.uint8).data)
            if dtype is not None and not np.array_equal(sides[0], sides[1]):
                self._write_part(f"{name}/{start}", *sides)
        self.old_lines[name] = tensor_line(entries[0], digests[0].hexdigest())
        self.new_lines[name] = tensor_line(entries[1], digests[1].hexdigest())

    def _write_part(self, label: str, before: np.ndarray, after: np.ndarray) -> None:
        gaps, differences = np.empty(5 * before.size, np.uint8), np.empty_like(before)
        sizes = delta_kernels.encode_changes(before, after, gaps, differences)
        used, count = sizes >> 32, sizes & 0xFFFFFFFF
        self._append(f"{label}.xor", differences[:count])
        self._append(f"{label}.gaps", gaps[:used])
        self.changed += count

    def _append(self, name: str, values: np.ndarray) -> None:
        end = self._position + values.nbytes
        dtype = {1: "U8", 2: "U16", 4: "U32"}[values.itemsize]
        self.written[name] = (dtype, values.shape, self._position, end)
        self._file.write(values.view(np.uint8).data)
        self._position = end


@dataclass(frozen=True)
class DeltaFile:
    """An opened delta file."""

    index: TensorIndex
    hashes: tuple[str, str]
    """Hashes of the backbone and of the patched model."""

    def other(self, model_hash: str) -> str | None:
        """The hash that a model of ``model_hash`` has after applying; None for a third model."""
        backbone, patched = self.hashes
        return {backbone: patched, patched: backbone}.get(model_hash)


def read_delta_file(path: Path) -> DeltaFile:
    """Read a delta file's header.

    Raises:
        UserError: no delta file, or a damaged one.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give one that --delta-file wrote")
    entries, metadata = read_header(path)
    hashes = metadata.get("backbone_sha256"), metadata.get("patched_sha256")
    if metadata.get("format") != _FORMAT or not all(isinstance(part, str) for part in hashes):
        raise UserError(f"{path}: no delta file of this format; give one that --delta-file wrote")
    return DeltaFile(TensorIndex(entries, metadata), (str(hashes[0]), str(hashes[1])))


def apply_part(
    delta: TensorReader, entry: TensorEntry, start: int, bits: np.ndarray
) -> list[tuple[TensorEntry, np.ndarray]]:
    """XOR the changes of one part of a tensor into ``bits``, in place.

    Returns:
        What was read for it, in the order of the file.

    Raises:
        UserError: the delta file is damaged.
    """
    label = f"{entry.name}/{start}"
    gaps, differences = (delta.index.get(f"{label}.{kind}") for kind in ("gaps", "xor"))
    if gaps is None and differences is None:
        return []
    wanted = {2: "U16", 4: "U32"}[bits.itemsize]
    if gaps is None or differences is None or (gaps.dtype, differences.dtype) != ("U8", wanted):
        raise UserError(f"delta file: part {label} is damaged; fetch the file again")
    arrays = np.empty(gaps.size, np.uint8), np.empty(differences.size, bits.dtype)
    delta.read(gaps.name, arrays[0])
    delta.read(differences.name, arrays[1])
    if not delta_kernels.apply_changes(bits, *arrays):
        raise UserError(f"delta file: part {label} does not fit the model; fetch the file again")
    return [(differences, arrays[1]), (gaps, arrays[0])]
