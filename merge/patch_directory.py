"""The patch directory: what training hands to the merger (format 1)."""

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal

import numpy as np

from merge.errors import UserError
from merge.files import atomic_write_json, fsync_directory, make_directory, read_json
from merge.tensor_files import TensorFolder, encode_header

Role = Literal["safety", "over_safety"]

FORMAT = 1
RECORD = "patch.json"
DEFAULT_SHARD_BYTES = 4 << 30
_HEADER_BYTES = 1 << 18
"""Kept free at a shard's start: its header is known only when its last tensor is there."""
_ENTRY_BYTES = 128
"""At most, beside the name, for one tensor in a header."""


class PatchWriter:
    """Writes a patch directory tensor by tensor; patch.json comes last and marks it whole.

    Shards stand under temporary names until the block ends without an error. An earlier patch in
    the directory loses its patch.json first, so a torn mixture is never taken for a patch.

    Args:
        metadata: further keys of patch.json.
        shard_bytes: a shard is closed before it would grow past this.
        directory_mode: permission bits of the folder; 0o700 makes its files 0o600.

    Raises:
        UserError: the folder or a file cannot be written.
    """

    def __init__(
        self,
        directory: Path,
        role: Role,
        metadata: dict[str, Any],
        shard_bytes: int = DEFAULT_SHARD_BYTES,
        directory_mode: int | None = None,
    ) -> None:
        self._directory = directory
        self._record = {"format": FORMAT, "role": role, **metadata}
        self._file_mode = 0o600 if directory_mode == 0o700 else None
        make_directory(directory, directory_mode)
        self._delta = _ShardedWriter(directory, "delta", shard_bytes)
        self._importance = _ShardedWriter(directory, "importance", shard_bytes)

    def __enter__(self) -> "PatchWriter":
        return self

    def add_delta(self, name: str, values: np.ndarray) -> None:
        """Add one tensor of the patch, float32."""
        self._delta.add(name, values)

    def add_importance(self, name: str, values: np.ndarray) -> None:
        """Add the importance of one tensor's entries, float32."""
        self._importance.add(name, values)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._delta.abandon()
            self._importance.abandon()
            return
        (self._directory / RECORD).unlink(missing_ok=True)
        self._delta.finish(self._file_mode)
        self._importance.finish(self._file_mode)
        fsync_directory(self._directory)
        atomic_write_json(self._directory / RECORD, self._record, self._file_mode)


class _ShardedWriter:
    """Tensors appended to shards of a bounded size, named when their number is known."""

    def __init__(self, directory: Path, stem: str, shard_bytes: int) -> None:
        self._directory = directory
        self._stem = stem
        self._shard_bytes = shard_bytes
        self._shards: list[list[tuple[str, str, tuple[int, ...]]]] = []
        self._file: BinaryIO | None = None
        self._header_room = 0

    def add(self, name: str, values: np.ndarray) -> None:
        data = np.ascontiguousarray(values, dtype="<f4").reshape(-1)
        needed = len(name.encode()) + _ENTRY_BYTES
        try:
            if (
                self._file is None
                or self._file.tell() + data.nbytes > self._shard_bytes
                or needed > self._header_room
            ):
                self._start_shard()
            assert self._file is not None
            self._file.write(data.view(np.uint8).data)
        except OSError as error:
            raise UserError(
                f"{self._directory}: the patch cannot be written ({error.strerror}); free space "
                "and run again"
            ) from None
        self._header_room -= needed
        self._shards[-1].append((name, "F32", tuple(values.shape)))

    def _start_shard(self) -> None:
        self._close_shard()
        self._shards.append([])
        self._file = self._temporary(len(self._shards)).open("wb")
        self._file.write(b"\0" * _HEADER_BYTES)
        self._header_room = _HEADER_BYTES - _ENTRY_BYTES

    def _close_shard(self) -> None:
        if self._file is None:
            return
        self._file.seek(0)
        self._file.write(encode_header(self._shards[-1], {"format": "pt"}, _HEADER_BYTES))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None

    def _temporary(self, number: int) -> Path:
        return self._directory / f".{self._stem}-{number:05d}.tmp"

    def finish(self, mode: int | None) -> None:
        """Give the shards their names, and write the index where there are several."""
        self._close_shard()
        count = len(self._shards)
        for old in self._directory.glob(f"{self._stem}*.safetensors*"):
            old.unlink()
        names = [f"{self._stem}.safetensors"]
        if count > 1:
            names = [f"{self._stem}-{n:05d}-of-{count:05d}.safetensors" for n in _numbers(count)]
        for number, name in zip(_numbers(count), names, strict=True):
            temporary = self._temporary(number)
            if mode is not None:
                temporary.chmod(mode)
            temporary.replace(self._directory / name)
        if count > 1:
            weight_map = {
                tensor[0]: name
                for name, shard in zip(names, self._shards, strict=True)
                for tensor in shard
            }
            index = self._directory / f"{self._stem}.safetensors.index.json"
            atomic_write_json(index, {"metadata": {}, "weight_map": weight_map}, mode)

    def abandon(self) -> None:
        if self._file is not None:
            self._file.close()
        for number in _numbers(len(self._shards)):
            self._temporary(number).unlink(missing_ok=True)


def _numbers(count: int) -> range:
    return range(1, count + 1)


class PatchDirectory:
    """A finished patch: its record, and its tensors by name."""

    def __init__(self, directory: Path, role: Role) -> None:
        """Read the record and the headers.

        Raises:
            UserError: it is no finished patch, of another role or format, or has broken files.
        """
        record = directory / RECORD
        if not record.is_file():
            raise UserError(
                f"{directory}: no {RECORD}; is this a patch directory, and did its training end?"
            )
        self.directory = directory
        self.metadata = read_json(record)
        if self.metadata.get("format") != FORMAT:
            raise UserError(f"{record}: format must be {FORMAT}; use a matching version")
        if self.metadata.get("role") != role:
            raise UserError(
                f"{record}: role is '{self.metadata.get('role')}' where '{role}' is wanted; swap "
                "--safety and --over-safety?"
            )
        self.delta = TensorFolder(directory, "delta")
        self.importance = TensorFolder(directory, "importance")
        score = self.metadata.get("score")
        self.has_gradient = score == "gradient"
        """Whether the importance files hold G, from which either score is made."""

    def files(self) -> Sequence[Path]:
        """Every file that the patch is read from."""
        tensors = [file.path for folder in (self.delta, self.importance) for file in folder.files]
        return [self.directory / RECORD, *tensors]
