"""One merge from its inputs to a finished model folder."""

import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from merge.checks import check_inputs
from merge.companions import companion_files, copy_file
from merge.delta_file import write_delta_file
from merge.density_curves import write_densities
from merge.errors import UserError
from merge.files import atomic_write_json, atomic_write_text, read_json, sha256_file
from merge.inputs import MergeInputs
from merge.journal import RECORD, Journal, exclusive, merge_identity
from merge.layout import INDEX_NAME, OutputShard, plan_shards, shard_index
from merge.recipe import MergeSettings
from merge.report import input_files, merge_record, model_card, totals
from merge.resources import MergeResources
from merge.shard_writer import ShardWriter
from merge.streaming import open_merge, run_all
from merge.tensor_files import read_index
from merge.tensor_merge import TensorReport, Thresholds

logger = logging.getLogger(__name__)


def build(
    backbone: Path,
    safety: Path,
    over_safety: Path,
    out: Path,
    settings: MergeSettings,
    resources: MergeResources,
    delta_file: Path | None = None,
    tensorboard: Path | None = None,
) -> None:
    """Merge two patches into a backbone and write the patched model.

    Args:
        delta_file: where to write the small reversible patch as well.
        tensorboard: folder for an event file with the densities of every layer.

    Memory: ``resources.memory_limit`` on top of the program itself, whatever the model's size.
    An interrupted merge continues after its last finished file; ``merge.json`` is written last.

    Raises:
        UserError: inputs that do not fit, wrong values in them, an output that holds something
            else, a full disk. Finished files of the output are kept.
    """
    started = time.monotonic()
    inputs = check_inputs(backbone, safety, over_safety, settings)
    shards = plan_shards(inputs.backbone, resources.max_shard_size)
    identity = merge_identity(inputs, settings, shards)
    with exclusive(out), ThreadPoolExecutor(resources.threads) as pool:
        journal = Journal(out, identity)
        if journal.is_complete():
            logger.info("%s: already done", out)
            _write_extras(out, inputs, read_json(out / RECORD)["tensors"], delta_file, tensorboard)
            return
        done = journal.resume()
        companions = companion_files(backbone)
        outputs = _write_companions(out, inputs, shards, companions)
        records = _write_shards(out, inputs, settings, resources, shards, journal, done, pool)
        outputs |= {name: record["sha256"] for name, record in records.items()}
        tensors = {
            name: report
            for record in records.values()
            for name, report in record["tensors"].items()
        }
        summary = totals(tensors.values())
        atomic_write_text(out / "README.md", model_card(backbone, settings, summary))
        outputs["README.md"] = sha256_file(out / "README.md")
        files = input_files(inputs, companions)
        hashes = _hash_files([path for paths in files.values() for path in paths], pool)
        record = merge_record(
            identity, inputs, settings, hashes, files, outputs, tensors, time.monotonic() - started
        )
        atomic_write_json(out / RECORD, record)
        journal.remove()
        _write_extras(out, inputs, tensors, delta_file, tensorboard)
    _log_summary(out, summary, time.monotonic() - started)


def _write_extras(
    out: Path,
    inputs: MergeInputs,
    tensors: dict[str, dict[str, float]],
    delta_file: Path | None,
    tensorboard: Path | None,
) -> None:
    """What is made from a finished merge; a rerun makes what is not there yet."""
    if delta_file is not None and not delta_file.exists():
        changed = write_delta_file(delta_file, inputs.backbone, read_index(out, "model"))
        logger.info("%s: %d changed values", delta_file, changed)
    if tensorboard is not None and not any(tensorboard.glob("events.out.*")):
        write_densities(tensorboard, tensors)


def _write_companions(
    out: Path, inputs: MergeInputs, shards: list[OutputShard], companions: list[Path]
) -> dict[str, str]:
    for source in companions:
        copy_file(source, out / source.name)
    written = [source.name for source in companions]
    index = shard_index(inputs.backbone, shards)
    if index is not None:
        atomic_write_text(out / INDEX_NAME, json.dumps(index, indent=2) + "\n")
        written.append(INDEX_NAME)
    return {name: sha256_file(out / name) for name in written}


def _write_shards(
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
    journal.add(record)
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


def _hash_files(paths: list[Path], pool: ThreadPoolExecutor) -> dict[Path, str]:
    hashes = run_all(pool, sha256_file, tqdm(paths, desc="hash", disable=None))
    return dict(zip(paths, hashes, strict=True))


def _log_summary(out: Path, summary: dict[str, float], seconds: float) -> None:
    size = summary["elements"] or 1
    logger.info(
        "%s: kept %.3f %% of the safety patch and %.3f %% of the over-safety patch; rounding "
        "erased %.2f %% and %.2f %% of that; %.1f s",
        out,
        100 * summary["kept_S"] / size,
        100 * summary["kept_O"] / size,
        100 * summary["erased_S"],
        100 * summary["erased_O"],
        seconds,
    )
