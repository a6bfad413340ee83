"""Writing the output's files one after the other, each recorded as soon as it is whole."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from merge import count_kernels
from merge.errors import UserError
from merge.files import sha256_file
from merge.inputs import MergeInputs
from merge.journal import Journal
from merge.layout import OutputShard
from merge.recipe import MergeSettings
from merge.resources import MergeResources
from merge.shard_writer import ShardWriter
from merge.streaming import open_merge
from merge.tensor_merge import TensorReport, Thresholds


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
        tqdm(total=size, unit="B", unit_scale=True, desc="merge", disable=None) as bar,
        closing(open_merge(inputs, settings, resources, pool, bar.update)) as merge,
    ):
        if settings.scope == "model":
            thresholds = _select_over_model(merge.merger.model_thresholds)
        finishing: list[Future[dict[str, Any]]] = []
        try:
            for shard in left:
                with ExitStack() as unfinished:
                    writer = unfinished.enter_context(ShardWriter(out, shard))
                    reports = merge.write_shard(writer, shard, thresholds)
                    _refuse_overflow({name: report.overflowed for name, report in reports.items()})
                    unfinished.pop_all()
                # In the pool, so that the next file is merged while this one reaches the disk.
                finishing.append(pool.submit(_finish, writer, reports, journal))
        finally:
            wait(finishing)
        for future in finishing:
            record = future.result()
            records[record["file"]] = record
    return records


def _finish(
    writer: ShardWriter, reports: dict[str, TensorReport], journal: Journal
) -> dict[str, Any]:
    """Give a whole file its name and its line in the journal."""
    with writer:
        writer.commit()
    record = {
        "file": writer.path.name,
        "sha256": sha256_file(writer.path),
        "tensors": {name: report.as_json() for name, report in reports.items()},
    }
    journal.add_output(record)
    return record


def _select_over_model(
    select: Callable[[Callable[[int], object]], dict[str, Thresholds]],
) -> dict[str, Thresholds]:
    with tqdm(unit=" values", unit_scale=True, desc="select", disable=None) as bar:
        return select(bar.update)


def _refuse_overflow(overflowed: dict[str, int]) -> None:
    names = [name for name, count in overflowed.items() if count]
    if names:
        raise UserError(
            f"{len(names)} tensors, such as {names[0]}, leave the range of the model's dtype; "
            "lower alpha and beta"
        )
