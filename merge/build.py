"""`python -m merge build`: from a backbone and two patches to a patched model's folder."""

import hashlib
import importlib.metadata
import logging
import os
import platform
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from merge.errors import UserError
from merge.files import (
    atomic_write_json,
    atomic_write_text,
    fsync_directory,
    make_directory,
    read_json,
    sha256_file,
)
from merge.inputs import ROLES, MergeInputs
from merge.patching import Selection, TensorReport, patch_tensor, select_over_model
from merge.recipe import MergeSettings
from merge.report import model_card, totals, write_densities
from merge.tensor_files import TensorEntry, read_blocks

logger = logging.getLogger(__name__)

RECORD = "merge.json"
_COPY_BLOCK_BYTES = 8 << 20
_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack"}
_OWN_FILES = {RECORD, "README.md"}


def build(
    backbone: Path,
    safety: Path,
    over_safety: Path,
    out: Path,
    settings: MergeSettings,
    tensorboard: Path | None = None,
) -> dict[str, Any]:
    """Write the patched model; memory is that of one tensor and its four companions.

    The folder appears under its name only when it is whole. Where it is there already, made from
    the same inputs with the same settings, nothing is done.

    Returns:
        The content of merge.json.

    Raises:
        UserError: inputs that do not fit, or an output that cannot be written or is taken.
    """
    inputs = MergeInputs.open(backbone, safety, over_safety, settings)
    request = {"settings": settings.model_dump(mode="json"), "inputs": _hash_inputs(inputs)}
    done = _finished(out, request)
    if done is not None:
        logger.info("%s: already done", out)
        return done
    partial = out.parent / f".{out.name}.partial"
    try:
        if partial.exists():
            shutil.rmtree(partial)
        make_directory(partial)
        record = _write(inputs, partial, settings, request)
        fsync_directory(partial)
        partial.rename(out)
        fsync_directory(out.parent)
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written ({error.strerror}); free space or choose another --out"
        ) from None
    if tensorboard is not None:
        write_densities(tensorboard, record)
    return record


def _finished(out: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    """The record of this very merge, if ``out`` holds it.

    Raises:
        UserError: ``out`` holds something else.
    """
    if not out.exists():
        return None
    record = read_json(out / RECORD) if (out / RECORD).is_file() else {}
    wanted = {key: sorted(value.values()) for key, value in request["inputs"].items()}
    found = {key: sorted(value.values()) for key, value in record.get("inputs", {}).items()}
    if record.get("settings") != request["settings"] or found != wanted:
        raise UserError(
            f"{out}: exists and holds something else; delete it or choose another --out"
        )
    return record


def _hash_inputs(inputs: MergeInputs) -> dict[str, dict[str, str]]:
    groups = {"backbone": [file.path for file in inputs.backbone.files]}
    groups.update({role: list(inputs.patches[role].files()) for role in ROLES})
    return {
        group: {str(path): sha256_file(path) for path in paths} for group, paths in groups.items()
    }


def _write(
    inputs: MergeInputs, folder: Path, settings: MergeSettings, request: dict[str, Any]
) -> dict[str, Any]:
    """Fill the folder, merge.json last."""
    reports: dict[str, TensorReport] = {}
    hashes: dict[str, str] = {}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("selecting over the model", total=len(inputs.backbone.entries))
        selection = select_over_model(inputs, settings)
        progress.update(task, description="merging")
        for file in inputs.backbone.files:
            digest = hashlib.sha256()
            with (folder / file.path.name).open("wb") as output:
                _put(output, digest, file.header)
                for entry in file.entries:
                    _write_tensor(inputs, entry, settings, selection, reports, output, digest)
                    progress.advance(task)
                output.flush()
                os.fsync(output.fileno())
            hashes[file.path.name] = digest.hexdigest()
    for path in _companions(inputs.backbone.directory):
        shutil.copyfile(path, folder / path.name)
        hashes[path.name] = sha256_file(folder / path.name)
    record = {
        "format": 1,
        **request,
        "outputs": hashes,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("numpy", "numba")},
        },
        "totals": totals(reports),
        "tensors": {name: asdict(report) for name, report in sorted(reports.items())},
    }
    atomic_write_text(folder / "README.md", model_card(record))
    atomic_write_json(folder / RECORD, record)
    return record


def _write_tensor(
    inputs: MergeInputs,
    entry: TensorEntry,
    settings: MergeSettings,
    selection: Selection | None,
    reports: dict[str, TensorReport],
    output: Any,
    digest: Any,
) -> None:
    if entry.name in inputs.covered:
        patched, reports[entry.name] = patch_tensor(inputs, entry.name, settings, selection)
        _put(output, digest, patched)
        return
    for _, block in read_blocks(entry, _COPY_BLOCK_BYTES):
        _put(output, digest, block)


def _put(output: Any, digest: Any, data: bytes | np.ndarray) -> None:
    view = data if isinstance(data, bytes) else data.view(np.uint8).data
    output.write(view)
    digest.update(view)


def _companions(directory: Path) -> list[Path]:
    """The backbone's other files: configuration, tokenizer, chat template, index."""
    return [
        path
        for path in sorted(directory.iterdir())
        if path.is_file()
        and path.suffix not in _WEIGHT_SUFFIXES
        and path.name not in _OWN_FILES
        and not path.name.startswith(".")
    ]
