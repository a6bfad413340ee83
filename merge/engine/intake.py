"""Hashing and checking the inputs' tensors in the read that merges or ranks them.

Whoever is first to read a part of a tensor hands it in here. A file that its patch's ``patch.json``
names the fast hash of is hashed by that, in any order; any other by SHA-256, in the order of its
bytes. What nobody hands in, ``read_rest`` reads.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np

from merge.common.files import sha256_file
from merge.common.pools import run_all
from merge.engine.input_check import (
    CheckedFile,
    RefusedError,
    Stamp,
    tensors_by_file,
)
from merge.engine.input_file import ChainedFile, InputFile, TreeFile
from merge.engine.inputs import Kind, MergeInputs
from merge.io.patch_hashes import recorded_hashes
from merge.io.tensor_files import TensorEntry


class Intake:
    """The tensor files of one merge, of which each byte is hashed and checked once.

    Args:
        stamps: of the files that the merge uses, with or without tensors, from before it began.
        known: what an earlier run has found; taken where a file's stamp is the same.
        given: of each kind of source, the tensors that will be handed in.
        found: told each sound file, in any thread.
    """

    def __init__(
        self,
        inputs: MergeInputs,
        stamps: Mapping[Path, Stamp],
        known: Mapping[Path, CheckedFile],
        given: Mapping[Kind, Iterable[str]],
        found: Callable[[Path, CheckedFile], object],
    ) -> None:
        recorded = {
            patch.path / name: hashes
            for patch in inputs.patches.values()
            for name, hashes in recorded_hashes(patch.metadata).items()
        }
        of_tensors = tensors_by_file(inputs)
        self.checked: dict[Path, CheckedFile] = {}
        """What is known of each file."""
        self.problems_found = False
        """Whether any value that was handed in is wrong."""
        self._found = found
        self._lock = threading.Lock()
        self._files: dict[Path, InputFile] = {}
        for path, (kind, entries) in of_tensors.items():
            if path not in stamps:
                continue
            stamp, before = stamps[path], known.get(path)
            if before is not None and before.stamp == stamp:
                self.checked[path] = before
                continue
            names = frozenset(given.get(kind, ()))
            new = TreeFile if path in recorded else ChainedFile
            self._files[path] = new(path, kind, entries, stamp, before, names, recorded.get(path))
        for path in stamps.keys() - of_tensors.keys():
            self.checked[path] = CheckedFile(sha256_file(path), stamps[path])

    def in_order(self, path: Path) -> bool:
        """Whether a file's parts are wanted in the order of its bytes."""
        return isinstance(self._files.get(path), ChainedFile)

    def take(
        self,
        entry: TensorEntry,
        start: int,
        bits: np.ndarray,
        turn: AbstractContextManager[object] | None = None,
    ) -> None:
        """Hash and check values of a tensor; a second time they are passed over.

        Args:
            start: flat index of the first, a multiple of ``merging.BLOCK``; or of bytes, where the
                bits are those of a tensor that is only copied.
            turn: in which the file's bytes come in their order.
        """
        file = self._files.get(entry.file)
        if file is not None:
            file.check(entry, bits)
            self.problems_found = self.problems_found or bool(file.wrong)
            with turn or nullcontext():
                file.add(entry, start * bits.itemsize, bits.view(np.uint8).data)
            if file.is_whole():
                self._complete(file)

    def read_rest(
        self, pool: ThreadPoolExecutor, advance: Callable[[int], object], *kinds: Kind
    ) -> None:
        """Read what nobody has handed in.

        Args:
            advance: told the bytes that were read here.
            kinds: sources whose files these are.
        """

        def read(file: InputFile) -> None:
            file.read_rest(advance)
            self._complete(file)

        files = [file for file in self._files.values() if file.kind in kinds]
        run_all(pool, read, [file for file in files if file.path not in self.checked])

    def refuse(self) -> None:
        """See that all files are sound.

        Raises:
            RefusedError: of every problem of every file.
        """
        problems = [line for file in self._files.values() for line in file.problems()]
        if problems:
            raise RefusedError("; ".join(problems))

    def _complete(self, file: InputFile) -> None:
        """Note what a file is, all of which was hashed."""
        with self._lock:
            if file.path in self.checked:
                return
            checked = file.result()
            if not file.problems():
                self.checked[file.path] = checked
                self._found(file.path, checked)
