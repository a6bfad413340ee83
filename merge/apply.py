"""Applying a delta file: the backbone becomes the patched model, and the other way round."""

import hashlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from merge.common.errors import UserError
from merge.common.files import atomic_write_json, atomic_write_text, sha256_file
from merge.common.progress import Progress
from merge.engine.conveyor import Conveyor, Piece, Turn, Turns
from merge.engine.input_check import file_stamp
from merge.engine.input_file import ChainedFile
from merge.engine.journal import RECORD, exclusive, refuse_strangers
from merge.io.companions import Companion, companion_files, copy_companions
from merge.io.delta_file import PART_VALUES, DeltaFile, apply_part, read_delta_file
from merge.io.dtypes import BITS
from merge.io.layout import INDEX_NAME, OutputShard, plan_shards, shard_index
from merge.io.model_hash import combine_lines, model_hash, tensor_line
from merge.io.shard_writer import ShardWriter, publish, sealed_path
from merge.io.tensor_files import TensorIndex, read_index
from merge.io.tensor_reader import TensorReader

_THREADS = 2


def apply_delta(model: Path, delta_file: Path, out: Path) -> Literal["backbone", "patched model"]:
    """Write to ``out`` what ``model`` becomes by the delta file, bit for bit; streaming.

    The model and the delta file are read once: which of the two the model is shows when all of it
    was hashed, and only then the files get their names.

    Returns:
        Which of the two was written.

    Raises:
        UserError: the model is neither the backbone nor the patched model, the delta file is
            damaged, or the output holds something or cannot be written.
    """
    delta = read_delta_file(delta_file)
    index = read_index(model, "model")
    companions = companion_files(model, out)
    shards = plan_shards(index, None)
    names = [shard.name for shard in shards]
    third = UserError(
        f"{model}: is neither the backbone nor the patched model of {delta_file}; give the model "
        "that the patch was made from"
    )
    with ThreadPoolExecutor(_THREADS) as pool, exclusive(out):
        refuse_strangers(out)
        try:
            try:
                read = _followed(delta_file, delta)
                read_hash, made, outputs = _write_model(index, delta, read, out, shards, pool)
            except _MisfitError as error:
                # Changes that do not fit: of a damaged file, or of another model.
                known = delta.other(model_hash(index, pool)) is not None
                raise (UserError(str(error)) if known else third) from None
            wanted = delta.other(read_hash)
            if wanted is None:
                raise third
            if made != wanted:
                raise UserError(f"{delta_file}: is damaged, its result is not what it names")
            publish(out, names)
        finally:
            for name in names:
                sealed_path(out, name).unlink(missing_ok=True)
        outputs |= _write_companions(companions, index, out)
        record = {
            "format": 1,
            "applied": {"delta_file": _sha256(delta_file, read), "model": str(model)},
            "outputs": dict(sorted(outputs.items())),
        }
        atomic_write_json(out / RECORD, record)
    return "backbone" if wanted == delta.hashes[0] else "patched model"


def _followed(path: Path, delta: DeltaFile) -> ChainedFile | None:
    """The delta file, hashed as it is read; None of one without changes."""
    names = frozenset(delta.index)
    entries = list(delta.index.values())
    stamp = file_stamp(path)
    return ChainedFile(path, "delta", entries, stamp, None, names, None) if entries else None


def _sha256(path: Path, read: ChainedFile | None) -> str:
    if read is None:
        return sha256_file(path)
    read.read_rest(lambda count: None)
    return read.result().sha256


class _MisfitError(Exception):
    """Changes that do not fit the model."""


def _write_model(
    index: TensorIndex,
    delta: DeltaFile,
    read: ChainedFile | None,
    out: Path,
    shards: list[OutputShard],
    pool: ThreadPoolExecutor,
) -> tuple[str, str, dict[str, str]]:
    """Write all shards under temporary names.

    Returns:
        The hash of the model that was read, of the one that was written, and the SHA-256 of every
        file.
    """
    size = sum(entry.bytes for entry in index.values())
    with (
        TensorReader(index) as reader,
        TensorReader(delta.index) as changes,
        Progress("apply", size, "B") as progress,
        ExitStack() as opened,
    ):
        conveyor = Conveyor(pool, _THREADS)
        place = conveyor.turns()
        files = [
            _OutputFile(out, shard, reader, changes, read, place, conveyor, progress)
            for shard in shards
        ]
        for file in files:
            opened.callback(file.close)
        conveyor.run(piece for file in files for piece in file.pieces())
        before = {name: line for file in files for name, line in file.lines(0).items()}
        after = {name: line for file in files for name, line in file.lines(1).items()}
        hashes = {file.shard.name: file.sha256 for file in files}
    return combine_lines(before), combine_lines(after), hashes


class _OutputFile:
    """One output file, filled by any threads, part by part; who does its last part seals it."""

    def __init__(
        self,
        out: Path,
        shard: OutputShard,
        reader: TensorReader,
        changes: TensorReader,
        delta: ChainedFile | None,
        delta_place: Turns,
        conveyor: Conveyor,
        progress: Progress,
    ) -> None:
        self.shard = shard
        self.sha256 = ""
        self._out = out
        self._reader, self._changes = reader, changes
        self._delta, self._delta_place = delta, delta_place
        self._conveyor = conveyor
        self._progress = progress
        self._digests = {name: (hashlib.sha256(), hashlib.sha256()) for name in shard.offsets}
        self._lock = threading.Lock()
        self._writer: ShardWriter | None = None
        self._left = 0

    def pieces(self) -> Iterator[Piece]:
        """All parts, in the order of the file's bytes; one more for a file of empty tensors."""
        parts = [(name, start) for name in self.shard.offsets for start in self._starts(name)]
        self._left = len(parts) + 1
        places = [*(self._conveyor.turns() for _ in range(3)), self._delta_place]
        for name, start in parts:
            turns = [place.turn() for place in places]
            yield partial(self._write, name, start, *turns), turns
        yield self._done, ()

    def _unit(self, name: str) -> np.dtype:
        return BITS.get(self._reader.index[name].dtype) or np.dtype(np.uint8)

    def _starts(self, name: str) -> range:
        return range(0, self._reader.index[name].bytes // self._unit(name).itemsize, PART_VALUES)

    def _write(
        self, name: str, start: int, read: Turn, written: Turn, hashed: Turn, changed: Turn
    ) -> None:
        entry, unit = self._reader.index[name], self._unit(name)
        bits = np.empty(min(PART_VALUES, entry.bytes // unit.itemsize - start), unit)
        self._reader.read(name, bits, start)
        before, after = self._digests[name]
        with read:
            before.update(bits.view(np.uint8).data)
        if entry.dtype in BITS:
            try:
                changes = apply_part(self._changes, entry, start, bits)
            except UserError as error:
                raise _MisfitError(str(error)) from None
            with changed:
                for part, data in changes:
                    assert self._delta is not None
                    self._delta.add(part, 0, data.view(np.uint8).data)
        with self._lock:
            writer = self._writer = self._writer or ShardWriter(self._out, self.shard)
        writer.write(name, bits, start, written)
        with hashed:
            after.update(bits.view(np.uint8).data)
        self._progress.advance(bits.nbytes)
        self._done()

    def _done(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left:
                return
            self._writer = self._writer or ShardWriter(self._out, self.shard)
            self.sha256 = self._writer.seal()
        self.close()

    def lines(self, side: Literal[0, 1]) -> dict[str, str]:
        """What each tensor adds to the hash of the model that was read (0), or written (1)."""
        index = self._reader.index
        return {
            name: tensor_line(index[name], digests[side].hexdigest())
            for name, digests in self._digests.items()
        }

    def close(self) -> None:
        """Close the file; no thread may be writing to it."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _write_companions(companions: list[Companion], index: TensorIndex, out: Path) -> dict[str, str]:
    hashes = copy_companions(companions, out)
    listing = shard_index(index, plan_shards(index, None))
    if listing is not None:
        atomic_write_text(out / INDEX_NAME, json.dumps(listing, indent=2) + "\n")
        hashes[INDEX_NAME] = sha256_file(out / INDEX_NAME)
    return hashes
