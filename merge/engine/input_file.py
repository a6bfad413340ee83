"""One input file, hashed and checked in parts; see ``merge.engine.intake``."""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from merge.common.errors import UserError
from merge.engine.input_check import CheckedFile, Stamp, check_bits, describe
from merge.engine.inputs import Kind
from merge.io.dtypes import BITS
from merge.io.patch_hashes import FAST, LEAF_BYTES, FileHashes, LeafDigests
from merge.io.tensor_files import TensorEntry
from merge.io.tensor_reader import read_whole

_BLOCK_BYTES = 1 << 20
"""Read at a time: it stays in the second cache from the read to the hash and the check."""


class InputFile:
    """One file; its parts are checked here, and hashed by the two kinds of it."""

    def __init__(
        self,
        path: Path,
        kind: Kind,
        entries: list[TensorEntry],
        stamp: Stamp,
        before: CheckedFile | None,
        given: frozenset[str],
        recorded: FileHashes | None,
    ) -> None:
        self.path = path
        self.kind: Kind = kind
        self._entries = entries
        self._stamp = stamp
        self._before = before
        self._given = given
        self._recorded = recorded
        self.wrong: dict[str, str] = {}
        """What is wrong with a tensor."""
        self._other: str | None = None
        """What is wrong with the file itself."""

    def check(self, entry: TensorEntry, bits: np.ndarray) -> None:
        """Note a wrong value; where that says nothing, as of integers, there is none."""
        dtype = BITS.get(entry.dtype)
        if dtype is not None and entry.name not in self.wrong:
            problem = check_bits(bits.view(dtype), entry.dtype, self.kind)
            if problem is not None:
                self.wrong[entry.name] = problem

    def problems(self) -> list[str]:
        """A line for each problem."""
        named: dict[str, list[str]] = {}
        for entry in self._entries:
            if entry.name in self.wrong:
                named.setdefault(self.wrong[entry.name], []).append(f"'{entry.name}'")
        lines = [describe(self.path, *item) for item in named.items()]
        return lines + [f"{self.path}: {self._other}"] * (self._other is not None)

    def add(self, entry: TensorEntry, position: int, data: memoryview) -> None:
        raise NotImplementedError

    def is_whole(self) -> bool:
        """Whether all of it was hashed."""
        raise NotImplementedError

    def read_rest(self, advance: Callable[[int], object]) -> None:
        """Hash and check what was not handed in."""
        raise NotImplementedError

    def result(self) -> CheckedFile:
        """What the file is, once it was hashed."""
        raise NotImplementedError

    def _as_before(self, sha256: str, fast: str | None = None) -> CheckedFile:
        """What the file is; it must be what an earlier run has found."""
        if self._before is not None and self._before.sha256 != sha256:
            self._other = "has changed since the merge began; begin in a new output"
        return CheckedFile(sha256, self._stamp, fast)

    def _read(self, entry: TensorEntry, start: int, block: np.ndarray) -> np.ndarray:
        """Fill a block from byte ``start`` of a tensor on, and check what it holds."""
        part = block[: entry.bytes - start]
        with self.path.open("rb", buffering=0) as file:
            read_whole(self.path, file.fileno(), part.data, entry.offset + start)
        self.check(entry, part)
        return part


class ChainedFile(InputFile):
    """A file whose bytes go into SHA-256 in their order."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._digest = hashlib.sha256()
        self._position = 0
        self._lost = False
        self._lock = threading.Lock()

    def add(self, entry: TensorEntry, position: int, data: memoryview) -> None:
        begin = entry.offset + position
        with self._lock:
            if self._lost:
                return
            if begin > self._position:
                # Another part comes later that lies before this one: both are read again.
                self._lost = self._is_awaited(begin)
                if not self._lost:
                    self._read_to(begin, lambda count: None)
            if begin == self._position:
                self._digest.update(data)
                self._position += len(data)

    def _is_awaited(self, end: int) -> bool:
        """Whether tensors before ``end`` that are not hashed yet will be handed in."""
        return any(
            entry.name in self._given
            for entry in self._entries
            if entry.bytes and entry.offset < end and entry.offset + entry.bytes > self._position
        )

    def _read_to(self, end: int, advance: Callable[[int], object]) -> None:
        if not self._position:
            header = _header(self.path, self._entries[0].offset)
            self._digest.update(header)
            self._position = len(header)
        block = np.empty(_BLOCK_BYTES, np.uint8)
        for entry in self._entries:
            while self._position < min(entry.offset + entry.bytes, end):
                # Whole values are checked, so from the tensor's start on in whole blocks.
                part = self._read(entry, self._position - entry.offset, block)
                self._digest.update(part.data)
                self._position += part.size
                advance(part.size)

    def is_whole(self) -> bool:
        return self._position == self._stamp[0]

    def read_rest(self, advance: Callable[[int], object]) -> None:
        self._read_to(self._stamp[0], advance)

    def result(self) -> CheckedFile:
        return self._as_before(self._digest.hexdigest())


class TreeFile(InputFile):
    """A file whose patch.json has its fast hash."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._leaves = LeafDigests(self._entries)

    def add(self, entry: TensorEntry, position: int, data: memoryview) -> None:
        self._leaves.add(entry, position, data)

    def is_whole(self) -> bool:
        return self._leaves.are_complete()

    def read_rest(self, advance: Callable[[int], object]) -> None:
        block = np.empty(LEAF_BYTES, np.uint8)
        for entry in self._entries:
            for start in self._leaves.missing(entry):
                part = self._read(entry, start, block)
                self._leaves.add(entry, start, part.data)
                advance(part.size)

    def result(self) -> CheckedFile:
        assert self._recorded is not None
        fast = self._leaves.hexdigest(_header(self.path, self._entries[0].offset))
        if fast != self._recorded.fast:
            self._other = (
                f"is not the file that its patch.json names ({FAST}); copy the patch again, or "
                "take 'hashes' out of patch.json if you have changed the file yourself"
            )
        return self._as_before(self._recorded.sha256, fast)


def _header(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
