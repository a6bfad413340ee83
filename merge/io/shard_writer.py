"""Writing one output file: in any order, by several threads, hashed as it grows."""

import hashlib
import os
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import numpy as np

from merge.common.errors import UserError
from merge.common.files import current_umask, fsync_directory
from merge.io.layout import OutputShard

_HASH_BYTES = 1 << 20
_WINDOW_BYTES = 32 << 20
"""How often pages are let go of."""
_WINDOWS = 2
"""Let go of together: what is not on disk yet when first told of is only sent there."""


def publish(directory: Path, names: Iterable[str]) -> None:
    """Give sealed files their final names, those that have them already apart.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        for name in names:
            temporary = sealed_path(directory, name)
            if temporary.exists():
                temporary.replace(directory / name)
        fsync_directory(directory)
    except OSError as error:
        raise UserError(f"{directory}: cannot be written ({error.strerror})") from None


def sealed_path(directory: Path, name: str) -> Path:
    """Where a file is before it has its final name."""
    return directory / f".{name}.tmp"


class ShardWriter:
    """Writes one output shard under a temporary name, which ``seal`` makes durable.

    The file's SHA-256 follows the writing, from memory where it comes in order, and the system's
    memory is given back behind it: a model that is written does not drive what is still to be read
    out of the page cache.

    Raises:
        UserError: the disk is full or the folder cannot be written, naming the file.
    """

    def __init__(self, directory: Path, shard: OutputShard) -> None:
        self.path = directory / shard.name
        self._temporary = sealed_path(directory, shard.name)
        self._offsets = shard.offsets
        self._size = shard.size
        self._digest = hashlib.sha256()
        self._hashed = 0
        self._hashing = threading.Lock()
        self._written: dict[int, int] = {}
        self._sealed = False
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self._descriptor = os.open(self._temporary, flags, 0o666 & ~current_umask())
        except OSError as error:
            raise self._error(error) from None
        try:
            # Space is taken at once: a full disk shows before the work, not after it.
            os.posix_fallocate(self._descriptor, 0, shard.size)
        except OSError as error:
            self.close()
            raise self._error(error) from None
        self._write(memoryview(shard.header), 0, nullcontext())

    def write(
        self,
        name: str,
        bits: np.ndarray,
        start: int = 0,
        turn: AbstractContextManager[object] | None = None,
    ) -> None:
        """Write values of a tensor from flat index ``start`` on, every value once.

        Args:
            turn: in which the file's bytes come in their order.
        """
        position = self._offsets[name] + start * bits.itemsize
        self._write(bits.reshape(-1).view(np.uint8).data, position, turn or nullcontext())

    def seal(self) -> str:
        """Make the file durable, still under its temporary name; its SHA-256 as hexadecimal.

        Raises:
            ValueError: not every byte was written.
        """
        try:
            with self._hashing:
                self._hash_written()
            if self._hashed != self._size:
                raise ValueError(f"{self.path}: a tensor was not written")
            os.fsync(self._descriptor)
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise self._error(error) from None
        self._sealed = True
        return self._digest.hexdigest()

    def _write(self, data: memoryview, position: int, turn: AbstractContextManager[object]) -> None:
        begin, left = position, data
        try:
            while left:
                count = os.pwrite(self._descriptor, left, position)
                left, position = left[count:], position + count
            with turn:
                # Whoever comes while another thread hashes leaves its bytes to that one, or later.
                if position > begin:
                    self._written[begin] = position
                if self._hashing.acquire(blocking=False):
                    try:
                        if begin == self._hashed and self._written.pop(begin, None):
                            self._digest.update(data)
                            self._move_on(position)
                        self._hash_written()
                    finally:
                        self._hashing.release()
        except OSError as error:
            raise self._error(error) from None

    def _hash_written(self) -> None:
        """Hash what is written without a gap before it."""
        while (end := self._written.pop(self._hashed, self._hashed)) > self._hashed:
            while self._hashed < end:
                block = os.pread(
                    self._descriptor, min(_HASH_BYTES, end - self._hashed), self._hashed
                )
                self._digest.update(block)
                self._move_on(self._hashed + len(block))

    def _move_on(self, hashed: int) -> None:
        """Tell the system that hashed windows are not needed: it writes and then forgets them."""
        before, window = self._hashed // _WINDOW_BYTES, hashed // _WINDOW_BYTES
        self._hashed = hashed
        if before == window:
            return
        first = max(window - _WINDOWS, 0) * _WINDOW_BYTES
        length = window * _WINDOW_BYTES - first
        os.posix_fadvise(self._descriptor, first, length, os.POSIX_FADV_DONTNEED)

    def _error(self, error: OSError) -> UserError:
        return UserError(
            f"{self.path}: cannot be written ({error.strerror}); fix it and run again, "
            "finished files are kept"
        )

    def close(self) -> None:
        """Close the file; one that is not sealed goes, as far as that can be done."""
        # A sealed file is on disk; of any other, the error that ended it counts.
        with suppress(OSError):
            os.close(self._descriptor)
        if not self._sealed:
            with suppress(OSError):
                self._temporary.unlink(missing_ok=True)
