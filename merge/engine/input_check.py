"""What an input must hold and stay while it is merged."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from merge.common.errors import UserError
from merge.engine.inputs import Kind, MergeInputs
from merge.io.tensor_files import TensorEntry

_SHOWN = 3
_SIGN = {"BF16": 0x8000, "F16": 0x8000, "F32": 0x80000000}
_INFINITY = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000}
_AGAIN = (
    "NaN or infinity; delete that patch and train it again with a lower learning_rate, or guards "
    "that end the training sooner"
)
NOT_FINITE: dict[Kind, str] = {
    "backbone": "NaN or infinity; take a sound copy of the model",
    "delta": _AGAIN,
    "importance": _AGAIN,
}
NEGATIVE = "a negative importance; export scores that are not negated"

Stamp = tuple[int, int, int]
"""See ``file_stamp``."""


class RefusedError(UserError):
    """These inputs cannot be merged in this way: nothing of the merge stays."""


@dataclass(frozen=True)
class CheckedFile:
    """An input file that was read and found sound."""

    sha256: str
    """Hash of its bytes; where ``fast`` is, as its patch.json has it."""
    stamp: Stamp
    fast: str | None = None
    """The hash of ``merge.io.patch_hashes`` by which it was found to be that file."""


def file_stamp(path: Path) -> Stamp:
    """Size, modification time (ns) and inode: while they stay, the content is taken to stay.

    Raises:
        UserError: the file cannot be looked at.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return status.st_size, status.st_mtime_ns, status.st_ino


def refuse_changed(checked: Mapping[Path, CheckedFile]) -> None:
    """See that the files are still those that were hashed.

    Raises:
        RefusedError: naming those that are not.
    """
    changed = [str(path) for path, file in checked.items() if file_stamp(path) != file.stamp]
    if changed:
        raise RefusedError(
            f"{', '.join(changed)}: changed during the merge; merge into a new output"
        )


def tensors_by_file(inputs: MergeInputs) -> dict[Path, tuple[Kind, list[TensorEntry]]]:
    """The tensors of every file in the order of their bytes; they leave no gap between them."""
    # By name, as one patch may be given for both roles.
    found: dict[Path, tuple[Kind, dict[str, TensorEntry]]] = {}
    for kind, index in inputs.sources():
        for entry in index.values():
            found.setdefault(entry.file, (kind, {}))[1][entry.name] = entry
    return {path: (kind, list(entries.values())) for path, (kind, entries) in found.items()}


def describe(path: Path, problem: str, names: list[str]) -> str:
    """A problem of some of a file's tensors, for people."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    several = "tensors" if len(names) > 1 else "tensor"
    verb = "hold" if len(names) > 1 else "holds"
    return f"{path}: {several} {', '.join(names[:_SHOWN])}{more} {verb} {problem}"


def check_bits(bits: np.ndarray, dtype: str, kind: Kind) -> str | None:
    """What the values hold that they must not, or None."""
    sign, infinity = _SIGN[dtype], _INFINITY[dtype]
    if not bits.size or (kind == "importance" and bits.max() < infinity):
        return None
    if np.bitwise_and(bits, bits.dtype.type(sign - 1)).max() >= infinity:
        return NOT_FINITE[kind]
    # Negative zeros are zeros.
    return NEGATIVE if kind == "importance" and bits.max() > sign else None
