"""Writing the output's files in order, each recorded as soon as it is whole."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from merge.common.errors import UserError
from merge.common.pools import run_all
from merge.common.progress import Progress
from merge.engine.inputs import MergeInputs
from merge.engine.journal import Journal
from merge.engine.resources import MergeResources
from merge.engine.streaming import StreamingMerge, open_merge
from merge.engine.tensor_merge import TensorReport, Thresholds
from merge.io.layout import OutputShard
from merge.io.shard_writer import ShardWriter
from merge.kernels import counting as count_kernels
from merge.settings import MergeSettings


def load_loops() -> None:
    """Make numba load what its first call needs, which takes as long as its import."""
    count_kernels.count_equal(np.zeros(1, np.uint16), 0)


def write_shards(
    out: Path,
    inputs: MergeInputs,
    settings: MergeSettings,
    resources: MergeResources,
    shards: list[OutputShard],
    journal: Journal,
    done: dict[str, dict[str, Any]],
    pool: ThreadPoolExecutor,
) -> dict[str, dict[str, Any]]:
    """Write the shards that are not there yet; the journal's record of each."""
    records = dict(done)
    left = [shard for shard in shards if shard.name not in done]
    if not left:
        return records
    thresholds: dict[str, Thresholds] = {}
    size = sum(inputs.backbone[name].bytes for shard in left for name in shard.offsets)
    with (
        Progress("merge", size, "B") as progress,
        closing(open_merge(inputs, settings, resources, progress.advance)) as merge,
    ):
        if settings.scope == "model":
            thresholds = _select_over_model(merge.merger.model_thresholds)
        files = [_OutputFile(out, shard, merge, thresholds, journal) for shard in left]
        work = [(file, name) for file in files for name in file.shard.offsets]
        try:
            finished = run_all(pool, lambda item: item[0].write(item[1]), work, stop_early=True)
        finally:
            for file in files:
                file.close()
    return records | {record["file"]: record for record in finished if record is not None}


class _OutputFile:
    """One output file, filled by any threads; whoever writes its last tensor finishes it.

    So no thread waits at a file's end: the next file begins meanwhile.
    """

    def __init__(
        self,
        out: Path,
        shard: OutputShard,
        merge: StreamingMerge,
        thresholds: dict[str, Thresholds],
        journal: Journal,
    ) -> None:
        self.shard = shard
        self._out = out
        self._merge = merge
        self._thresholds = thresholds
        self._journal = journal
        self._lock = threading.Lock()
        self._writer: ShardWriter | None = None
        self._reports: dict[str, TensorReport | None] = {}

    def write(self, name: str) -> dict[str, Any] | None:
        """Write one tensor; the file's record, once that was the last of them.

        Raises:
            UserError: see ``StreamingMerge.write_tensor``; or a value leaves the dtype's range.
        """
        with self._lock:
            writer = self._writer = self._writer or ShardWriter(self._out, self.shard)
        report = self._merge.write_tensor(writer, name, self._thresholds)
        with self._lock:
            self._reports[name] = report
            if len(self._reports) < len(self.shard.offsets):
                return None
        reports = {name: report for name, report in self._reports.items() if report is not None}
        _refuse_overflow(reports)
        record = {
            "file": self.shard.name,
            "sha256": writer.commit(),
            "tensors": {name: report.as_json() for name, report in reports.items()},
        }
        self.close()
        self._journal.add_output(record)
        return record

    def close(self) -> None:
        """Close the file, and drop it if it is not whole; no thread may be writing to it."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _select_over_model(
    select: Callable[[Callable[[int], object]], dict[str, Thresholds]],
) -> dict[str, Thresholds]:
    with Progress("select", None, "values") as progress:
        return select(progress.advance)


def _refuse_overflow(reports: dict[str, TensorReport]) -> None:
    names = [name for name, report in reports.items() if report.overflowed]
    if names:
        raise UserError(
            f"{len(names)} tensors, such as {names[0]}, leave the range of the model's dtype; "
            "lower alpha and beta"
        )
