"""Safetensors folders read tensor by tensor: headers once, data by ``pread``, never mapped.

A mapped file counts as this process's memory for as long as the kernel likes; a ``pread`` into a
buffer of our own does not. The format is https://github.com/huggingface/safetensors#format:
eight bytes with the header's length, the header in JSON, then the data.
"""

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from merge.errors import UserError
from merge.files import read_json

BITS_OF = {"BF16": np.dtype("<u2"), "F16": np.dtype("<f2"), "F32": np.dtype("<f4")}
"""The numpy dtype that holds each floating dtype's values; bfloat16 stays a bit pattern."""

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2,
    "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
_LENGTH_BYTES = 8
_LARGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor's bytes are."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    """Of its first byte in the file."""
    size: int
    """In bytes."""

    @property
    def elements(self) -> int:
        return self.size // ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class TensorFile:
    """One safetensors file: its header's bytes as they stand, and its tensors in file order."""

    path: Path
    header: bytes
    """Everything before the data, the length field included."""
    entries: tuple[TensorEntry, ...]


class TensorFolder:
    """The tensors of ``STEM.safetensors``, or of the shards that its index names."""

    def __init__(self, directory: Path, stem: str) -> None:
        """Read the headers.

        Args:
            stem: ``model``, ``delta`` or ``importance``.

        Raises:
            UserError: files are missing, torn or contradict the index; all problems at once.
        """
        self.directory = directory
        self.index_path = directory / f"{stem}.safetensors.index.json"
        self.files: list[TensorFile] = []
        problems: list[str] = []
        for path in self._paths(stem):
            try:
                self.files.append(read_header(path))
            except UserError as error:
                problems.append(str(error))
        self.entries = {entry.name: entry for file in self.files for entry in file.entries}
        if not problems and self.index_path.is_file():
            problems = self._index_problems()
        if problems:
            raise UserError("; ".join(problems))

    def _paths(self, stem: str) -> list[Path]:
        single = self.directory / f"{stem}.safetensors"
        if self.index_path.is_file():
            return [self.directory / name for name in sorted(set(self._weight_map().values()))]
        if single.is_file():
            return [single]
        if not self.directory.is_dir():
            raise UserError(f"{self.directory}: no such folder; name an existing one")
        if list(self.directory.glob("*.bin")):
            raise UserError(
                f"{self.directory}: holds pickled weights (.bin), which can run code when read; "
                "load them with transformers and save_pretrained them as safetensors"
            )
        raise UserError(
            f"{self.directory}: holds no {single.name} and no {self.index_path.name}; is this "
            "the right folder?"
        )

    def _weight_map(self) -> dict[str, str]:
        weight_map = read_json(self.index_path).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise UserError(f"{self.index_path}: has no weight_map; write the index again")
        for file in weight_map.values():
            if not isinstance(file, str) or Path(file).name != file:
                raise UserError(f"{self.index_path}: names '{file}', which leaves the folder")
        return weight_map

    def _index_problems(self) -> list[str]:
        listed = self._weight_map()
        found = {entry.name: entry.path.name for entry in self.entries.values()}
        return [
            f"{self.index_path}: says '{name}' is in {listed.get(name, 'no file')}, but it is in "
            f"{found.get(name, 'no file')}"
            for name in sorted(listed.keys() | found.keys())
            if listed.get(name) != found.get(name)
        ]

    def read(self, name: str) -> np.ndarray:
        """One whole tensor, flat: float16 or float32 values, or bfloat16 bit patterns (uint16)."""
        entry = self.entries[name]
        values = np.empty(entry.elements, BITS_OF[entry.dtype])
        for start, block in read_blocks(entry, entry.size):
            values.view(np.uint8)[start : start + len(block)] = block
        return values


def read_blocks(entry: TensorEntry, block_bytes: int) -> Iterator[tuple[int, np.ndarray]]:
    """A tensor's bytes in order: pairs of offset within it and a uint8 array.

    Raises:
        UserError: the file cannot be read, or ends early.
    """
    try:
        with entry.path.open("rb", buffering=0) as file:
            for start in range(0, entry.size, max(1, block_bytes)):
                block = np.empty(min(block_bytes, entry.size - start), np.uint8)
                _read_fully(file.fileno(), block, entry.offset + start, entry.path)
                yield start, block
    except OSError as error:
        raise UserError(f"{entry.path}: cannot be read ({error.strerror}); is it there?") from None


def _read_fully(descriptor: int, block: np.ndarray, offset: int, path: Path) -> None:
    view = block.data
    while view:
        count = os.preadv(descriptor, [view], offset)
        if not count:
            raise UserError(f"{path}: ends early; copy it again")
        view, offset = view[count:], offset + count


def read_header(path: Path) -> TensorFile:
    """Read and check one file's header.

    Raises:
        UserError: it is no whole safetensors file.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length_field = file.read(_LENGTH_BYTES)
            length = struct.unpack("<Q", length_field)[0] if len(length_field) == 8 else 0
            if not 2 <= length <= min(_LARGEST_HEADER, size - _LENGTH_BYTES):
                raise UserError(f"{path}: no safetensors file, or cut short; copy it again")
            text = file.read(length)
        header = json.loads(text)
        entries = _entries(header, path, _LENGTH_BYTES + length)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); is it there?") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(f"{path}: its safetensors header is damaged; copy it again") from None
    end = _LENGTH_BYTES + length
    for entry in entries:
        if entry.offset != end:
            raise UserError(f"{path}: tensor '{entry.name}' leaves a gap or overlaps; write it new")
        end += entry.size
    if end != size:
        raise UserError(f"{path}: has {size} bytes where its header says {end}; copy it again")
    return TensorFile(path, length_field + text, tuple(entries))


def _entries(header: dict[str, Any], path: Path, data_start: int) -> list[TensorEntry]:
    entries = []
    for name, fields in header.items():
        if name == "__metadata__":
            continue
        begin, end = fields["data_offsets"]
        shape = tuple(fields["shape"])
        entry = TensorEntry(name, fields["dtype"], shape, path, data_start + begin, end - begin)
        elements = 1
        for extent in shape:
            elements *= extent
        if min((begin, end, *shape)) < 0 or entry.size != elements * ITEM_BYTES[entry.dtype]:
            raise ValueError
        entries.append(entry)
    return sorted(entries, key=lambda entry: (entry.offset, entry.size))


def encode_header(
    tensors: list[tuple[str, str, tuple[int, ...]]],
    metadata: dict[str, str],
    padded_to: int | None = None,
) -> bytes:
    """The bytes before the data of tensors ``(name, dtype, shape)`` that follow in this order.

    Args:
        padded_to: total length to fill up with spaces, which the format allows.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, dtype, shape in tensors:
        begin, end = end, end + ITEM_BYTES[dtype] * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    total = padded_to or -(-(_LENGTH_BYTES + len(text)) // 8) * 8
    return struct.pack("<Q", total - _LENGTH_BYTES) + text.ljust(total - _LENGTH_BYTES)
