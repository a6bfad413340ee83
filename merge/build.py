"""One merge from its inputs to a finished model folder."""

import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from merge.common.errors import UserError
from merge.common.files import (
    PRIVATE_FOLDER,
    atomic_write_json,
    atomic_write_text,
    make_directory,
    read_json,
    sha256_file,
)
from merge.engine.checks import check_inputs
from merge.engine.coverage import log_coverage
from merge.engine.input_check import CheckedFile, RefusedError, file_stamp, refuse_changed
from merge.engine.inputs import MergeInputs
from merge.engine.journal import RECORD, Journal, exclusive, merge_identity
from merge.engine.resources import MergeResources
from merge.engine.slices import share_memory
from merge.io.companions import CARD, Companion, companion_files, copy_companions
from merge.io.layout import INDEX_NAME, OutputShard, plan_shards, shard_index
from merge.io.model_hash import model_hash
from merge.io.patch_directory import LETTERS
from merge.io.tensor_files import read_index
from merge.pictures.density_curves import write_densities
from merge.pictures.packages import require
from merge.record.erasure import erased_share, erasure_warnings, percent
from merge.record.merge_json import input_files, merge_record, totals
from merge.record.model_card import model_card
from merge.settings import MergeSettings

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
    recipe: str | None = None,
) -> None:
    """Merge two patches into a backbone and write the patched model.

    Args:
        delta_file: where to write the small reversible patch as well.
        tensorboard: folder for an event file with the densities of every layer.
        recipe: hash of the run's recipe, for merge.json (``merge.common.provenance``).

    Memory: ``resources.memory_limit`` on top of the program itself, whatever the model's size.
    An interrupted merge continues after its last finished file; weights get their names when all
    inputs were found sound, and ``merge.json`` is written last. A model without the safety patch is
    jailbroken: its folder is private to its owner.

    Raises:
        UserError: inputs that do not fit, an output that holds something else, a full disk, no
            TensorBoard where it is to write: finished files of the output are kept. Or wrong values
            in the inputs, or inputs that change meanwhile: none is kept.
    """
    started = time.monotonic()
    if tensorboard is not None:
        # Not after hours of merging.
        require("--tensorboard", "tensorboard", otherwise=", or leave the option out")
    inputs = check_inputs(backbone, safety, over_safety, settings)
    files = input_files(inputs, settings)
    stamps = {path: file_stamp(path) for group in files.values() for path in group}
    shards = plan_shards(inputs.backbone, resources.max_shard_size)
    companions = companion_files(backbone, out)
    identity = merge_identity(inputs, settings, shards)
    share = share_memory(inputs, settings, resources)
    with exclusive(out), ThreadPoolExecutor(share.threads) as pool:
        journal = Journal(out, identity)
        if journal.is_complete():
            logger.info("%s: already done", out)
            tensors = read_json(out / RECORD)["tensors"]
            _write_extras(out, inputs, tensors, delta_file, tensorboard, pool)
            return
        log_coverage(inputs.coverage)
        done, known = journal.resume()
        if settings.only_over_safety:
            make_directory(out, PRIVATE_FOLDER)
        from merge.engine.shard_output import write_shards

        try:
            records, checked = write_shards(
                out, inputs, settings, resources, shards, journal, done, stamps, known, pool
            )
            refuse_changed(checked)
        except RefusedError:
            journal.discard()
            raise
        except UserError:
            # What is whole is kept, and found again.
            journal.publish()
            raise
        journal.publish()
        outputs, copied = _write_companions(out, inputs, shards, companions)
        files["backbone"] += [companion.source for companion in companions]
        checked |= copied
        outputs |= {name: record["sha256"] for name, record in records.items()}
        tensors = {
            name: report
            for record in records.values()
            for name, report in record["tensors"].items()
        }
        summary = totals(tensors.values())
        atomic_write_text(out / CARD, model_card(backbone, settings, summary))
        outputs[CARD] = sha256_file(out / CARD)
        record = merge_record(
            identity.now,
            inputs,
            settings,
            checked,
            files,
            outputs,
            tensors,
            time.monotonic() - started,
            recipe,
        )
        record["output_bytes"] = {name: (out / name).stat().st_size for name in records}
        atomic_write_json(out / RECORD, record)
        journal.remove()
        _write_extras(out, inputs, tensors, delta_file, tensorboard, pool)
    _log_summary(out, summary, time.monotonic() - started)
    dtypes = {inputs.backbone[name].dtype for name in tensors}
    for line in erasure_warnings(summary, settings, dtypes):
        logger.warning("%s: %s", out, line)


def _write_extras(
    out: Path,
    inputs: MergeInputs,
    tensors: dict[str, dict[str, float]],
    delta_file: Path | None,
    tensorboard: Path | None,
    pool: ThreadPoolExecutor,
) -> None:
    """What is made from a finished merge; a rerun makes what is not there yet.

    Raises:
        UserError: a file cannot be written, or the delta file is there and of another merge.
    """
    if delta_file is not None:
        from merge.io.delta_file import read_delta_file, write_delta_file

        patched = read_index(out, "model")
        if not delta_file.exists():
            changed = write_delta_file(delta_file, inputs.backbone, patched)
            logger.info("%s: %d changed values", delta_file, changed)
        elif read_delta_file(delta_file).hashes != tuple(
            model_hash(index, pool) for index in (inputs.backbone, patched)
        ):
            raise UserError(
                f"{delta_file}: does not lead from this backbone to {out}; delete it, or give "
                "--delta-file another name, and run again"
            )
    if tensorboard is not None and not any(tensorboard.glob("events.out.*")):
        write_densities(tensorboard, tensors)


def _write_companions(
    out: Path, inputs: MergeInputs, shards: list[OutputShard], companions: list[Companion]
) -> tuple[dict[str, str], dict[Path, CheckedFile]]:
    """The hash of each file that was written, and what is known of each that was copied."""
    stamps = {companion.source: file_stamp(companion.source) for companion in companions}
    hashes = copy_companions(companions, out)
    copied = {
        companion.source: CheckedFile(hashes[companion.name], stamps[companion.source])
        for companion in companions
    }
    index = shard_index(inputs.backbone, shards)
    if index is not None:
        atomic_write_text(out / INDEX_NAME, json.dumps(index, indent=2) + "\n")
        hashes[INDEX_NAME] = sha256_file(out / INDEX_NAME)
    return hashes, copied


def _log_summary(out: Path, summary: dict[str, float], seconds: float) -> None:
    size = summary["elements"] or 1
    logger.info(
        "%s: kept %.3f %% of the safety patch and %.3f %% of the over-safety patch; rounding "
        "erased %s and %s of its nonzero entries; %.1f s",
        out,
        100 * summary["kept_S"] / size,
        100 * summary["kept_O"] / size,
        *(percent(erased_share(summary, patch)) for patch in LETTERS.values()),
        seconds,
    )
