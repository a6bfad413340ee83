"""Reading any slice of a tensor.

No mmap: a mapped file counts into the process's memory as it is read, and a read past the end of
a file that shrank kills the process. ``pread`` does neither.
"""

import os
import threading
from pathlib import Path

import numpy as np

from merge.common.errors import UserError
from merge.io.tensor_files import TensorIndex


class TensorReader:
    """Reads slices of an index's tensors; safe to share between threads."""

    def __init__(self, index: TensorIndex) -> None:
        self.index = index
        self._descriptors: dict[Path, int] = {}
        self._lock = threading.Lock()

    def read(self, name: str, out: np.ndarray, start: int = 0) -> None:
        """Fill ``out`` (C-contiguous, any dtype of the tensor's item size) from value ``start``.

        Raises:
            UserError: the file vanished, shrank, or cannot be read.
        """
        entry = self.index[name]
        self.read_bytes(
            entry.file, out.reshape(-1).view(np.uint8), entry.offset, start * out.itemsize
        )

    def read_bytes(self, file: Path, out: np.ndarray, offset: int, skip: int = 0) -> None:
        """Fill ``out`` (uint8) with the bytes of ``file`` from ``offset + skip`` on."""
        try:
            descriptor = self._descriptor(file)
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror})") from None
        read_whole(file, descriptor, out.data, offset + skip)

    def _descriptor(self, file: Path) -> int:
        with self._lock:
            if file not in self._descriptors:
                self._descriptors[file] = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            return self._descriptors[file]

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            for descriptor in self._descriptors.values():
                os.close(descriptor)
            self._descriptors.clear()

    def __enter__(self) -> "TensorReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_whole(file: Path, descriptor: int, view: memoryview, position: int) -> None:
    """Fill ``view`` with the bytes of an open file from ``position`` on.

    Raises:
        UserError: the file shrank, or cannot be read.
    """
    try:
        while view:
            count = os.preadv(descriptor, [view], position)
            if not count:
                raise UserError(f"{file}: ended while it was read; it must not change meanwhile")
            view, position = view[count:], position + count
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
