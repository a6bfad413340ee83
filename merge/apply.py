"""Applying a delta file: the backbone becomes the patched model, and the other way round."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from merge.common.errors import UserError
from merge.common.files import atomic_write_json, atomic_write_text, sha256_file
from merge.common.pools import run_all
from merge.common.progress import Progress
from merge.engine.journal import RECORD, exclusive, refuse_strangers
from merge.io.companions import Companion, companion_files, copy_companions
from merge.io.delta_file import PART_VALUES, apply_part, read_delta_file
from merge.io.dtypes import BITS
from merge.io.layout import INDEX_NAME, plan_shards, shard_index
from merge.io.model_hash import combine_lines, model_hash, tensor_line
from merge.io.shard_writer import ShardWriter
from merge.io.tensor_files import TensorIndex, read_index
from merge.io.tensor_reader import TensorReader

_THREADS = 2


def apply_delta(model: Path, delta_file: Path, out: Path) -> Literal["backbone", "patched model"]:
    """Write to ``out`` what ``model`` becomes by the delta file, bit for bit; streaming.

    Returns:
        Which of the two was written.

    Raises:
        UserError: the model is neither the backbone nor the patched model, the delta file is
            damaged, or the output holds something or cannot be written.
    """
    delta = read_delta_file(delta_file)
    index = read_index(model, "model")
    companions = companion_files(model, out)
    with ThreadPoolExecutor(_THREADS) as pool:
        wanted = delta.other(model_hash(index, pool))
        if wanted is None:
            raise UserError(
                f"{model}: is neither the backbone nor the patched model of {delta_file}; give "
                "the model that the patch was made from"
            )
        with exclusive(out):
            refuse_strangers(out)
            lines, outputs = _write_model(index, delta.index, out, pool)
            if combine_lines(lines) != wanted:
                _remove_weights(out, index)
                raise UserError(f"{delta_file}: is damaged, its result is not what it names")
            outputs |= _write_companions(companions, index, out)
            record = {
                "format": 1,
                "applied": {"delta_file": sha256_file(delta_file), "model": str(model)},
                "outputs": dict(sorted(outputs.items())),
            }
            atomic_write_json(out / RECORD, record)
    return "backbone" if wanted == delta.hashes[0] else "patched model"


def _write_model(
    index: TensorIndex, delta: TensorIndex, out: Path, pool: ThreadPoolExecutor
) -> tuple[dict[str, str], dict[str, str]]:
    """Write all shards; the hash line of every tensor, and the SHA-256 of every file."""
    lines: dict[str, str] = {}
    hashes: dict[str, str] = {}
    size = sum(entry.bytes for entry in index.values())
    with (
        TensorReader(index) as reader,
        TensorReader(delta) as changes,
        Progress("apply", size, "B") as progress,
    ):
        for shard in plan_shards(index, None):
            with ShardWriter(out, shard) as writer:

                def patch(name: str, to: ShardWriter = writer) -> str:
                    line = _write_tensor(name, reader, changes, to)
                    progress.advance(index[name].bytes)
                    return line

                names = list(shard.offsets)
                lines |= dict(zip(names, run_all(pool, patch, names), strict=True))
                hashes[shard.name] = writer.commit()
    return lines, hashes


def _write_tensor(name: str, reader: TensorReader, delta: TensorReader, writer: ShardWriter) -> str:
    entry = reader.index[name]
    dtype = BITS.get(entry.dtype)
    unit = np.dtype(np.uint8) if dtype is None else dtype
    values = entry.bytes // unit.itemsize
    digest = hashlib.sha256()
    for start in range(0, values, PART_VALUES):
        bits = np.empty(min(PART_VALUES, values - start), unit)
        reader.read(name, bits, start)
        if dtype is not None:
            apply_part(delta, entry, start, bits)
        digest.update(bits.view(np.uint8).data)
        writer.write(name, bits, start)
    return tensor_line(entry, digest.hexdigest())


def _write_companions(companions: list[Companion], index: TensorIndex, out: Path) -> dict[str, str]:
    hashes = copy_companions(companions, out)
    listing = shard_index(index, plan_shards(index, None))
    if listing is not None:
        atomic_write_text(out / INDEX_NAME, json.dumps(listing, indent=2) + "\n")
        hashes[INDEX_NAME] = sha256_file(out / INDEX_NAME)
    return hashes


def _remove_weights(out: Path, index: TensorIndex) -> None:
    for file in index.files:
        (out / file.name).unlink(missing_ok=True)
