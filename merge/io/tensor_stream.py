"""Writing safetensors files whose tensors are not known beforehand, one tensor at a time."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from merge.common.errors import UserError
from merge.common.files import atomic_write_json, current_umask, fsync_directory
from merge.io.patch_hashes import FileHashes, hash_file
from merge.io.tensor_files import INDEX_SUFFIX

_HEADER_ROOM = 1 << 16
"""Bytes kept free in front of the data for a header that is known only at the end: trailing
spaces are part of the format. A file also ends when its header would outgrow this."""


def header_bytes(
    tensors: dict[str, tuple[str, tuple[int, ...], int, int]],
    metadata: dict[str, str],
    room: int = 0,
) -> bytes:
    """A safetensors header with its length prefix, padded to ``room`` bytes or a multiple of 8.

    Args:
        tensors: name -> (dtype, shape, first byte, end byte), bytes counted from the data's start.
    """
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    for name, (dtype, shape, begin, end) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(max(room - 8, -(-len(text) // 8) * 8))
    return len(text).to_bytes(8, "little") + text


class TensorStream:
    """Shards of one stem, under temporary names until ``finish``.

    What a killed process has left under such names is removed at the start.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, directory: Path, stem: str, shard_bytes: int, mode: int | None) -> None:
        self._directory = directory
        self._stem = stem
        self._shard_bytes = shard_bytes
        self._mode = mode
        self._names: set[str] = set()
        self._shards: list[tuple[list[str], FileHashes]] = []
        self._named: list[Path] = []
        self._file: BinaryIO | None = None
        self._tensors: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
        self._header_length = 0
        self._position = 0
        try:
            for left in directory.glob(f".{stem}-*.tmp"):
                left.unlink()
        except OSError as error:
            raise self._write_error(error) from None

    def add(self, name: str, values: np.ndarray) -> None:
        """Append a tensor of fp32.

        Raises:
            UserError: the disk is full or cannot be written.
            ValueError: not fp32, not contiguous, or a name for the second time.
        """
        if values.dtype != np.float32 or not values.flags.c_contiguous or name in self._names:
            raise ValueError(f"{name}: wants one C-contiguous float32 array")
        header_length = self._header_length + len(name) + 150
        full = self._position + values.nbytes > self._shard_bytes or header_length > _HEADER_ROOM
        try:
            if self._file is not None and full:
                self._close_shard()
            if self._file is None:
                self._open_shard()
            assert self._file is not None
            self._file.write(values.reshape(-1).view(np.uint8).data)
        except OSError as error:
            raise self._write_error(error) from None
        end = self._position + values.nbytes
        self._tensors[name] = ("F32", values.shape, self._position, end)
        self._names.add(name)
        self._header_length += len(name) + 150
        self._position = end

    def finish(self) -> dict[str, FileHashes]:
        """Give the shards their final names, and write the index where there are several.

        Returns:
            Each shard's hashes, by its final name.
        """
        try:
            if self._file is None and not self._shards:
                self._open_shard()
            if self._file is not None:
                self._close_shard()
            return self._name_shards()
        except OSError as error:
            raise self._write_error(error) from None

    def _name_shards(self) -> dict[str, FileHashes]:
        count = len(self._shards)
        placement, hashes = {}, {}
        for number, (names, hashes_of_shard) in enumerate(self._shards):
            suffix = "" if count == 1 else f"-{number + 1:05d}-of-{count:05d}"
            final = f"{self._stem}{suffix}.safetensors"
            temporary = self._temporary(number)
            temporary.chmod(0o666 & ~current_umask() if self._mode is None else self._mode)
            temporary.replace(self._directory / final)
            self._named.append(self._directory / final)
            hashes[final] = hashes_of_shard
            placement |= dict.fromkeys(names, final)
        fsync_directory(self._directory)
        # What an earlier, unfinished writing left in the other form would contradict this one.
        listing = self._directory / f"{self._stem}{INDEX_SUFFIX}"
        listing.unlink(missing_ok=True)
        if count > 1:
            (self._directory / f"{self._stem}.safetensors").unlink(missing_ok=True)
            self._named.append(listing)
            atomic_write_json(listing, {"metadata": {}, "weight_map": placement}, self._mode)
        return hashes

    def discard(self) -> None:
        """Remove all that was written, as far as that can be done: the error before it counts."""
        if self._file is not None:
            # Closing writes what a full disk has refused before, and fails as that did.
            with suppress(OSError):
                self._file.close()
            self._file = None
        unnamed = [self._temporary(number) for number in range(len(self._shards) + 1)]
        for path in (*unnamed, *self._named):
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def _temporary(self, number: int) -> Path:
        return self._directory / f".{self._stem}-{number}.{os.getpid()}.tmp"

    def _open_shard(self) -> None:
        path = self._temporary(len(self._shards))
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        self._file.write(bytes(_HEADER_ROOM))
        self._tensors, self._header_length, self._position = {}, 0, 0

    def _close_shard(self) -> None:
        assert self._file is not None
        with self._file as file:
            file.seek(0)
            file.write(header_bytes(self._tensors, {"format": "pt"}, _HEADER_ROOM))
            file.flush()
            os.fsync(file.fileno())
        # Now, while the page cache holds it: all shards together may be larger than memory.
        hashes = hash_file(self._temporary(len(self._shards)))
        self._shards.append((list(self._tensors), hashes))
        self._file = None

    def _write_error(self, error: OSError) -> UserError:
        return UserError(
            f"{self._directory}: {self._stem} files cannot be written ({error.strerror}); "
            "check permission and free space"
        )
