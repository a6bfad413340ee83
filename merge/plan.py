"""What a merge would read, write and need, from headers and one short measured read."""

import hashlib
import logging
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from merge.common.errors import UserError
from merge.common.files import free_bytes
from merge.engine.checks import check_inputs
from merge.engine.coverage import Coverage, log_coverage
from merge.engine.inputs import MergeInputs
from merge.engine.resources import MergeResources
from merge.engine.slices import share_memory
from merge.io.companions import companion_files
from merge.io.layout import plan_shards
from merge.io.patch_hashes import recorded_hashes
from merge.io.tensor_reader import TensorReader
from merge.record.merge_json import input_files
from merge.settings import MergeSettings

logger = logging.getLogger(__name__)

_SAMPLE_BYTES = 1 << 26
_BLOCK_BYTES = 1 << 20
_COMPILED_LOOPS_BYTES = 40 * 2**20
"""What the loops take once they are loaded, with the allocator's slack; to compile them, which the
first merge on a machine does, takes 120 MB more for a moment."""
_MERGED_VALUE_BYTES = 9
"""Merging a value takes the time of hashing this many bytes: measured, for bf16 throughout."""
_WRITTEN_BYTES_A_SECOND = 2e9
_START_SECONDS = 0.3


@dataclass(frozen=True)
class MergePlan:
    """Bytes and seconds of a merge; the seconds are an estimate."""

    tensors: int
    covered_tensors: int
    covered_values: int
    coverage: Coverage
    read_bytes: int
    write_bytes: int
    output_files: int
    free_bytes: int
    peak_memory_bytes: int
    read_bytes_a_second: float
    seconds: float


def plan(
    backbone: Path,
    safety: Path,
    over_safety: Path,
    out: Path,
    settings: MergeSettings,
    resources: MergeResources,
) -> MergePlan:
    """Plan a merge without reading more than headers and 64 MiB of data.

    Raises:
        UserError: every problem of the inputs that headers show, and a disk that is too small.
    """
    inputs = check_inputs(backbone, safety, over_safety, settings)
    shards = plan_shards(inputs.backbone, resources.max_shard_size)
    companions = companion_files(backbone, out)
    paths = [path for group in input_files(inputs, settings).values() for path in group]
    paths += [companion.source for companion in companions]
    read = sum(path.stat().st_size for path in paths)
    written = sum(shard.size for shard in shards)
    written += sum(companion.source.stat().st_size for companion in companions)
    values = sum(inputs.backbone[name].size for name in inputs.covered)
    speed, hashed_a_second = _measure(inputs)
    share = share_memory(inputs, settings, resources)
    fast = _fast(inputs)
    hashed = written + sum(path.stat().st_size for path in paths if path not in fast)
    work = (hashed + _MERGED_VALUE_BYTES * values) / hashed_a_second / share.threads
    result = MergePlan(
        tensors=len(inputs.backbone),
        covered_tensors=len(inputs.covered),
        covered_values=values,
        coverage=inputs.coverage,
        read_bytes=read,
        write_bytes=written,
        output_files=len(shards),
        free_bytes=free_bytes(out),
        peak_memory_bytes=_own_memory() + _COMPILED_LOOPS_BYTES + share.bytes,
        read_bytes_a_second=speed,
        # Importances are read twice, the second time mostly from memory.
        seconds=_START_SECONDS
        + read / speed / share.threads
        + work
        + written / _WRITTEN_BYTES_A_SECOND,
    )
    if result.free_bytes < written:
        raise UserError(
            f"{out}: needs {written / 1e9:.2f} GB, {result.free_bytes / 1e9:.2f} GB are free; "
            "make room or choose another output"
        )
    return result


def log_plan(result: MergePlan, out: Path) -> None:
    """Log the plan in a few lines."""
    gigabyte = 1e9
    logger.info(
        "%d of %d tensors are covered: %d values",
        result.covered_tensors,
        result.tensors,
        result.covered_values,
    )
    log_coverage(result.coverage)
    logger.info("reads  %8.3f GB", result.read_bytes / gigabyte)
    logger.info(
        "writes %8.3f GB in %d files to %s, where %.3f GB are free",
        result.write_bytes / gigabyte,
        result.output_files,
        out,
        result.free_bytes / gigabyte,
    )
    logger.info("memory %8.3f GB at its peak, at most", result.peak_memory_bytes / gigabyte)
    logger.info(
        "time   %8.1f s, about, as a short read ran at %.2f GB/s",
        result.seconds,
        result.read_bytes_a_second / gigabyte,
    )


def _fast(inputs: MergeInputs) -> set[Path]:
    """The files that are not hashed by SHA-256."""
    return {
        patch.path / name
        for patch in inputs.patches.values()
        for name in recorded_hashes(patch.metadata)
    }


def _measure(inputs: MergeInputs) -> tuple[float, float]:
    """Bytes a second of reading the largest covered tensor's start, and of hashing it."""
    largest = max(inputs.covered, key=lambda name: inputs.backbone[name].bytes)
    entry = inputs.backbone[largest]
    size = min(entry.bytes, _SAMPLE_BYTES)
    block, digest = np.zeros(_BLOCK_BYTES, np.uint8), hashlib.sha256()
    digest.update(block.data)
    reading = hashing = 1e-6
    with TensorReader(inputs.backbone) as reader:
        for start in range(0, size, _BLOCK_BYTES):
            part = block[: size - start]
            started = time.perf_counter()
            reader.read_bytes(entry.file, part, entry.offset, start)
            read = time.perf_counter()
            digest.update(part.data)
            reading += read - started
            hashing += time.perf_counter() - read
    # A tensor too small to time, as in a test, is taken for a middling machine.
    return (size / reading, size / hashing) if size >= _BLOCK_BYTES else (1e9, 1e9)


def _own_memory() -> int:
    """Peak resident bytes of this process so far: imports, and hardly anything else."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
