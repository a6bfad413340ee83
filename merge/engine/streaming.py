"""The pieces of one merge's output files, in order, for ``merge.engine.conveyor``."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from merge.engine.conveyor import Conveyor, Piece, Turn, Turns
from merge.engine.input_check import RefusedError
from merge.engine.inputs import ROLES, FileSource, MergeInputs
from merge.engine.intake import Intake
from merge.engine.journal import Journal
from merge.engine.ranking import Thresholds
from merge.engine.tensor_merge import Tally, TensorMerger, TensorPlan, TensorReport
from merge.io.layout import OutputShard
from merge.io.shard_writer import ShardWriter
from merge.io.tensor_files import TensorEntry
from merge.io.tensor_reader import TensorReader

COPY_BYTES = 1 << 20
"""Bytes in hand at a time of a tensor that no patch changes."""


class StreamingMerge:
    """One merge's inputs and ways of working, for all its output files.

    Args:
        thresholds: of every covered tensor.
        advance: told the bytes of backbone that are done.
    """

    def __init__(
        self,
        inputs: MergeInputs,
        source: FileSource,
        merger: TensorMerger,
        intake: Intake,
        thresholds: Mapping[str, Thresholds],
        advance: Callable[[int], object],
    ) -> None:
        self.inputs, self.source, self.merger, self.intake = inputs, source, merger, intake
        self.thresholds, self.advance = thresholds, advance
        self.backbone = TensorReader(inputs.backbone)
        self.deltas = [inputs.patches[role].delta for role in ROLES]

    def close(self) -> None:
        """Close the backbone's files."""
        self.backbone.close()


class OutputFile:
    """One output file, filled by any threads; whoever does its last piece seals it.

    So no thread waits at a file's end: the next file begins meanwhile.

    Args:
        files: the places of input files whose bytes must come in order, for all output files.
    """

    def __init__(
        self,
        out: Path,
        shard: OutputShard,
        merge: StreamingMerge,
        conveyor: Conveyor,
        files: dict[Path, Turns],
        journal: Journal,
    ) -> None:
        self.shard = shard
        self.record: dict[str, Any] | None = None
        """The journal's, once the file is sealed."""
        self._out = out
        self._merge = merge
        self._conveyor = conveyor
        self._files = files
        self._journal = journal
        self._written = conveyor.turns()
        self._lock = threading.Lock()
        self._writer: ShardWriter | None = None
        self._covered = set(merge.inputs.covered)
        self._tallies: dict[str, Tally] = {}
        self._left = 0

    def pieces(self) -> Iterator[Piece]:
        """All the work of this file, in the order of its bytes."""
        slices = {name: list(self._slices(name)) for name in self.shard.offsets}
        # One more piece than there are slices: a file may hold nothing but empty tensors.
        self._left = 1 + sum(map(len, slices.values()))
        for name, parts in slices.items():
            entry = self._merge.inputs.backbone[name]
            if name not in self._covered:
                for start, stop in parts:
                    turns = [self._turn(entry), self._written.turn()]
                    yield partial(self._copy, entry, start, stop, turns), _made(turns)
                continue
            plan = self._merge.merger.plan(name, self._merge.thresholds[name])
            tally = self._tallies[name] = Tally()
            left, ties = plan.ties, self._conveyor.turns()
            for start, stop in parts:
                inputs = [entry, *(delta[name] for delta in self._merge.deltas)]
                turns = [self._turn(each) for each in inputs]
                turns += [ties.turn(), self._written.turn()]
                work = partial(self._merge_slice, plan, tally, left, inputs, start, stop, turns)
                yield work, _made(turns)
        yield self._done, ()

    def _slices(self, name: str) -> Iterator[tuple[int, int]]:
        if name in self._covered:
            yield from self._merge.merger.slices(name)
            return
        size = self._merge.inputs.backbone[name].bytes
        for start in range(0, size, COPY_BYTES):
            yield start, min(start + COPY_BYTES, size)

    def _turn(self, entry: TensorEntry) -> Turn | None:
        """A turn for the bytes of a file which wants them in order."""
        if not self._merge.intake.in_order(entry.file):
            return None
        if entry.file not in self._files:
            self._files[entry.file] = self._conveyor.turns()
        return self._files[entry.file].turn()

    def _copy(
        self, entry: TensorEntry, start: int, stop: int, turns: Sequence[Turn | None]
    ) -> None:
        merge = self._merge
        block = merge.source.scratch("copy", np.uint8, stop - start)
        merge.backbone.read(entry.name, block, start)
        merge.intake.take(entry, start, block, turns[0])
        if not merge.intake.problems_found:
            self._open().write(entry.name, block, start, turns[1])
        merge.advance(stop - start)
        self._done()

    def _merge_slice(
        self,
        plan: TensorPlan,
        tally: Tally,
        left: np.ndarray,
        inputs: Sequence[TensorEntry],
        start: int,
        stop: int,
        turns: Sequence[Turn | None],
    ) -> None:
        merge, name = self._merge, plan.entry.name
        before = merge.source.read("backbone", None, name, start, stop)
        merge.intake.take(inputs[0], start, before, turns[0])
        for role, entry, turn in zip(ROLES, inputs[1:], turns[1:], strict=False):
            bits = merge.source.read("delta", role, name, start, stop)
            merge.intake.take(entry, start, bits, turn)
        if not merge.intake.problems_found:
            keys = merge.merger.slice_keys(name, start, stop)
            equal = merge.merger.count_ties(plan, keys, left)
            turn = turns[-2]
            assert turn is not None
            with turn:
                mine = left.copy()
                left -= np.minimum(left, equal)
            _, after = merge.merger.merge_slice(plan, start, stop, keys, mine, tally)
            self._open().write(name, after, start, turns[-1])
        merge.advance(before.nbytes)
        self._done()

    def _open(self) -> ShardWriter:
        with self._lock:
            self._writer = self._writer or ShardWriter(self._out, self.shard)
            return self._writer

    def _done(self) -> None:
        """Note that a piece is done; the last one seals the file."""
        with self._lock:
            self._left -= 1
            if self._left:
                return
        if self._merge.intake.problems_found:
            return
        reports = self._reports()
        _refuse_overflow(reports)
        self.record = {
            "file": self.shard.name,
            "sha256": self._open().seal(),
            "tensors": {name: report.as_json() for name, report in reports.items()},
        }
        self.close()
        self._journal.add_output(self.record)

    def _reports(self) -> dict[str, TensorReport]:
        sizes = self._merge.inputs.backbone
        return {name: tally.report(sizes[name].size) for name, tally in self._tallies.items()}

    def close(self) -> None:
        """Close the file, and drop it if it is not sealed; no thread may be writing to it."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _refuse_overflow(reports: dict[str, TensorReport]) -> None:
    names = [name for name, report in reports.items() if report.overflowed]
    if names:
        raise RefusedError(
            f"{len(names)} tensors, such as {names[0]}, leave the range of the model's dtype; "
            "lower alpha and beta"
        )


def _made(turns: Sequence[Turn | None]) -> list[Turn]:
    return [turn for turn in turns if turn is not None]
