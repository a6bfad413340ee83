"""An output file that several threads fill at known places."""

import os
from pathlib import Path
from types import TracebackType

import numpy as np

from merge.errors import UserError
from merge.files import current_umask, fsync_directory
from merge.layout import OutputShard


class ShardWriter:
    """Writes one output shard under a temporary name; ``commit`` gives it the final one.

    Raises:
        UserError: the disk is full or the folder cannot be written, naming the file.
    """

    def __init__(self, directory: Path, shard: OutputShard) -> None:
        self.path = directory / shard.name
        self._temporary = directory / f".{shard.name}.tmp"
        self._offsets = shard.offsets
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self._descriptor = os.open(self._temporary, flags, 0o666 & ~current_umask())
        except OSError as error:
            raise self._error(error) from None
        try:
            # Space is taken at once: a full disk shows before the work, not after it.
            os.posix_fallocate(self._descriptor, 0, shard.size)
        except OSError as error:
            self._discard()
            raise self._error(error) from None
        self._write(memoryview(shard.header), 0)

    def write(self, name: str, bits: np.ndarray, start: int = 0) -> None:
        """Write values of a tensor from flat index ``start`` on."""
        position = self._offsets[name] + start * bits.itemsize
        self._write(bits.reshape(-1).view(np.uint8).data, position)

    def commit(self) -> None:
        """Make the file durable under its final name."""
        try:
            os.fsync(self._descriptor)
            self._temporary.replace(self.path)
            fsync_directory(self.path.parent)
        except OSError as error:
            raise self._error(error) from None

    def _write(self, data: memoryview, position: int) -> None:
        try:
            while data:
                count = os.pwrite(self._descriptor, data, position)
                data, position = data[count:], position + count
        except OSError as error:
            raise self._error(error) from None

    def _error(self, error: OSError) -> UserError:
        return UserError(
            f"{self.path}: cannot be written ({error.strerror}); mend it and run again, "
            "finished files are kept"
        )

    def _discard(self) -> None:
        os.close(self._descriptor)
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._discard()
