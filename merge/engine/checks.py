"""Whether backbone, patches and settings fit each other: all problems at once, before any work."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from merge.common.errors import UserError
from merge.engine.coverage import Coverage, coverage
from merge.engine.inputs import ROLES, MergeInputs
from merge.io.dtypes import BITS, PATCH_DTYPES
from merge.io.fingerprint import index_fingerprint
from merge.io.patch_directory import PatchDirectory, Role, read_patch
from merge.io.tensor_files import TensorIndex, read_index
from merge.methods import METHODS
from merge.settings import MergeSettings

_SHOWN = 3
ResultT = TypeVar("ResultT")


def check_inputs(
    backbone: Path, safety: Path, over_safety: Path, settings: MergeSettings
) -> MergeInputs:
    """Read the headers of all inputs, and see that they fit.

    Raises:
        UserError: with every problem found, separated by semicolons.
    """
    problems: list[str] = []
    model = _attempt(lambda: read_index(backbone, "model"), problems)
    patches: dict[Role, PatchDirectory] = {}
    for role, path in zip(ROLES, (safety, over_safety), strict=True):
        patch = _attempt(lambda path=path: read_patch(path), problems)
        if patch is None:
            continue
        patches[role] = patch
        if patch.role != role and METHODS[settings.method].alone in (None, role):
            problems.append(
                f"{path}: is a patch of role {patch.role}, given as {role}; swap the two folders"
            )
    if model is None or len(patches) < len(ROLES):
        raise UserError("; ".join(problems))
    covered = coverage(model, patches.values(), settings)
    _check_covered(backbone, model, covered, settings, problems)
    for patch in patches.values():
        _check_patch(backbone, model, patch, covered.names, problems)
    if problems:
        raise UserError("; ".join(problems))
    return MergeInputs(backbone, model, patches, covered)


def _attempt(read: Callable[[], ResultT], problems: list[str]) -> ResultT | None:
    try:
        return read()
    except UserError as error:
        problems.append(str(error))
        return None


def _check_covered(
    backbone: Path,
    model: TensorIndex,
    covered: Coverage,
    settings: MergeSettings,
    problems: list[str],
) -> None:
    if not covered.names:
        wanted = (
            "no linear weight inside numbered decoder blocks is in both patches; name tensors with "
            "include"
            if settings.include is None
            else f"no tensor that the patches hold is covered by include = "
            f"{', '.join(settings.include)}; give patterns that fit its names"
        )
        problems.append(f"{backbone}: {wanted}, such as {', '.join(sorted(model)[:2])}")
    for name in covered.names:
        if model[name].dtype not in BITS:
            problems.append(
                f"{model[name].file}: tensor '{name}' is {model[name].dtype}, which cannot be "
                f"merged ({', '.join(BITS)} can); exclude it"
            )


def _check_patch(
    backbone: Path,
    model: TensorIndex,
    patch: PatchDirectory,
    covered: tuple[str, ...],
    problems: list[str],
) -> None:
    expected = patch.metadata.get("backbone_fingerprint")
    if expected is not None:
        fingerprint = _attempt(lambda: index_fingerprint(model), problems)
        if fingerprint is not None and fingerprint != expected:
            problems.append(
                f"{patch.path}: was made for another backbone than {backbone} (fingerprints "
                f"{str(expected)[:12]} and {fingerprint[:12]}); give the one it was trained from"
            )
    for label, index in (("delta", patch.delta), ("importance", patch.importance)):
        found: dict[str, list[str]] = {}
        for name in covered:
            if name not in index:
                found.setdefault(
                    "does not hold covered tensors; exclude them, or make the patch again",
                    [],
                ).append(name)
        for name, entry in index.items():
            if name not in model:
                found.setdefault("holds tensors that the backbone has not", []).append(name)
            elif entry.shape != model[name].shape:
                message = f"has another shape than {backbone} for"
                shapes = f"{name} ({list(entry.shape)}, not {list(model[name].shape)})"
                found.setdefault(message, []).append(shapes)
            elif entry.dtype not in PATCH_DTYPES:
                found.setdefault("must be BF16 or F32, unlike", []).append(
                    f"{name} ({entry.dtype})"
                )
        for message, names in found.items():
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            problems.append(f"{patch.path}: {label} {message}: {', '.join(names[:_SHOWN])}{more}")
