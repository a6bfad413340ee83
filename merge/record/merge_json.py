"""What a merge was made from and what it did: merge.json."""

import importlib.metadata
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from merge.common.errors import UserError
from merge.common.files import read_json
from merge.common.provenance import written_by
from merge.engine.input_check import CheckedFile
from merge.engine.inputs import ROLES, MergeInputs
from merge.engine.journal import IDENTITY_FORMAT, RECORD
from merge.io.patch_directory import LETTERS, PATCH_RECORD
from merge.io.patch_hashes import FAST
from merge.record.erasure import erased_share
from merge.settings import MergeSettings, method_of

_PACKAGES = ("numpy", "numba", "safetensors")
_PATCH_ORIGIN = (
    "backbone_fingerprint", "config", "identity", "steps", "best_step", "stop_reason", "written_by",
    "versions",
)  # fmt: skip
"""Keys of patch.json that tell what a patch was made from, beside the hashes of its data; the patch
may be deleted after the merge."""
_INPUT_HASHES = (
    f"files: SHA-256; of those that {FAST} has as well, as their patch.json has it: the merge has "
    f"computed {FAST} of them and found it there, and merge verify computes SHA-256"
)


def input_files(inputs: MergeInputs, settings: MergeSettings) -> dict[str, list[Path]]:
    """Every file whose content is merged, by input: importances only where the method ranks them.

    What else of the backbone is copied (``companion_files``) is not among them.
    """
    ranked = method_of(settings).by_importance
    files = {"backbone": [*_index_files(inputs.backbone_path, "model"), *inputs.backbone.files]}
    for role in ROLES:
        patch = inputs.patches[role]
        files[role] = [patch.path / PATCH_RECORD]
        for stem, index in (("delta", patch.delta), ("importance", patch.importance)):
            if stem == "delta" or ranked:
                files[role] += [*_index_files(patch.path, stem), *index.files]
    return files


def _index_files(directory: Path, stem: str) -> list[Path]:
    path = directory / f"{stem}.safetensors.index.json"
    return [path] if path.is_file() else []


def merge_record(
    identity: str,
    inputs: MergeInputs,
    settings: MergeSettings,
    checked: Mapping[Path, CheckedFile],
    files: Mapping[str, list[Path]],
    outputs: Mapping[str, str],
    tensors: Mapping[str, Mapping[str, float]],
    seconds: float,
    recipe: str | None = None,
) -> dict[str, Any]:
    """The content of merge.json.

    Args:
        checked: every input file.
        outputs: SHA-256 of every output file.
        tensors: the report of each covered tensor.
        recipe: hash of the recipe of the run that the merge belongs to.
    """
    paths = {"backbone": inputs.backbone_path} | {role: inputs.patches[role].path for role in ROLES}
    return {
        "format": 1,
        "identity_format": IDENTITY_FORMAT,
        "identity": identity,
        "written_by": written_by(recipe),
        "settings": settings.model_dump(mode="json"),
        "seed": settings.seed,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "inputs": {
            name: {
                "path": str(paths[name]),
                **_hashes(paths[name], {path: checked[path] for path in paths_of_input}),
                "bytes": {
                    path.relative_to(paths[name]).as_posix(): path.stat().st_size
                    for path in paths_of_input
                },
                **_patch_origin(inputs, name),
            }
            for name, paths_of_input in files.items()
        },
        "hashes": {"inputs": _INPUT_HASHES, "outputs": "files: SHA-256"},
        "outputs": dict(sorted(outputs.items())),
        "coverage": {
            "share": inputs.coverage.share,
            "linear_values": inputs.coverage.linear_values,
            "covered_linear_values": inputs.coverage.covered_linear_values,
            "untrained": list(inputs.coverage.untrained),
        },
        "totals": totals(tensors.values()),
        "tensors": {name: tensors[name] for name in sorted(tensors)},
        "seconds": round(seconds, 3),
    }


def _patch_origin(inputs: MergeInputs, name: str) -> dict[str, dict[str, Any]]:
    """What an input's patch.json says about how it was made; nothing of the backbone."""
    for role in ROLES:
        if role == name:
            metadata = inputs.patches[role].metadata
            told = [key for key in metadata if key in _PATCH_ORIGIN or key.endswith("_hash")]
            return {"record": {key: metadata[key] for key in told}}
    return {}


def _hashes(folder: Path, checked: Mapping[Path, CheckedFile]) -> dict[str, dict[str, str]]:
    """SHA-256 of every file, and the fast hash of those that were checked by it."""
    named = {path.relative_to(folder).as_posix(): file for path, file in checked.items()}
    fast = {name: file.fast for name, file in named.items() if file.fast is not None}
    files = {name: file.sha256 for name, file in named.items()}
    return {"files": files} | ({FAST: fast} if fast else {})


def read_merge_record(model: Path) -> dict[str, Any]:
    """The merge.json of a finished merge.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    record = model / RECORD
    if not record.is_file():
        raise UserError(f"{model}: no {RECORD}, so no finished merge; run merge build again")
    return read_json(record)


def totals(reports: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Counts added up, norms as of all tensors together, and what rounding erased.

    ``erased_X`` is ``erased_share`` of patch X. What an older version has not counted in one of the
    tensors is left out.
    """
    rows = list(reports)
    sums: dict[str, float] = {}
    for key in rows[0] if rows else ():
        values = [row[key] for row in rows if key in row]
        if len(values) == len(rows):
            norm = "norm" in key
            sums[key] = sum(value**2 for value in values) ** 0.5 if norm else sum(values)
    shares = {f"erased_{patch}": erased_share(sums, patch) for patch in LETTERS.values()}
    return sums | {key: share for key, share in shares.items() if share is not None}
