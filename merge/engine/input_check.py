"""One read of every input before anything is written: its SHA-256, and whether it is sound.

A hash needs a file's bytes in order, so a file is one thread's work; the largest come first, so
that no thread is left alone with one at the end.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from merge.common.errors import UserError
from merge.common.files import sha256_file
from merge.common.pools import run_all
from merge.engine.inputs import Kind, MergeInputs
from merge.io.dtypes import BITS
from merge.io.tensor_files import TensorEntry

_BLOCK_BYTES = 1 << 20
"""Read at a time: it stays in the second cache from the read to the hash and the check."""
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


@dataclass(frozen=True)
class CheckedFile:
    """An input file that was read and found sound."""

    sha256: str
    stamp: tuple[int, int, int]
    """See ``file_stamp``."""


def file_stamp(path: Path) -> tuple[int, int, int]:
    """Size, modification time (ns) and inode: while they stay, the content is taken to stay.

    Raises:
        UserError: the file cannot be looked at.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return status.st_size, status.st_mtime_ns, status.st_ino


def check_files(
    inputs: MergeInputs,
    paths: Iterable[Path],
    known: Mapping[Path, CheckedFile],
    pool: ThreadPoolExecutor,
    found: Callable[[Path, CheckedFile], object],
    advance: Callable[[int], object],
) -> dict[Path, CheckedFile]:
    """Hash all files, and see that no tensor holds NaN or infinity, and no importance is negative.

    Args:
        paths: files with and without tensors.
        known: what an earlier run has found; taken where a file's stamp is the same.
        found: told each sound file, in any thread.
        advance: told the bytes that were read.

    Raises:
        UserError: every problem of every file.
    """
    tensors = _tensors(inputs)

    def check(path: Path) -> CheckedFile:
        stamp = file_stamp(path)
        if path in known and known[path].stamp == stamp:
            advance(stamp[0])
            return known[path]
        if path in tensors:
            digest = _check_tensors(path, *tensors[path], advance)
        else:
            digest = sha256_file(path)
            advance(stamp[0])
        if path in known and known[path].sha256 != digest:
            raise UserError(f"{path}: has changed since the merge began; begin in a new output")
        checked = CheckedFile(digest, stamp)
        found(path, checked)
        return checked

    ordered = sorted(set(paths), key=lambda path: (-file_stamp(path)[0], path))
    return dict(zip(ordered, run_all(pool, check, ordered), strict=True))


def refuse_changed(checked: Mapping[Path, CheckedFile]) -> None:
    """See that the files are still those that were hashed.

    Raises:
        UserError: naming those that are not.
    """
    changed = [str(path) for path, file in checked.items() if file_stamp(path) != file.stamp]
    if changed:
        raise UserError(f"{', '.join(changed)}: changed during the merge; merge into a new output")


def _tensors(inputs: MergeInputs) -> dict[Path, tuple[Kind, list[TensorEntry]]]:
    """The tensors of every file in the order of their bytes; they leave no gap between them."""
    # By name, as one patch may be given for both roles.
    found: dict[Path, tuple[Kind, dict[str, TensorEntry]]] = {}
    for kind, index in inputs.sources():
        for entry in index.values():
            found.setdefault(entry.file, (kind, {}))[1][entry.name] = entry
    return {path: (kind, list(entries.values())) for path, (kind, entries) in found.items()}


def _check_tensors(
    path: Path, kind: Kind, entries: list[TensorEntry], advance: Callable[[int], object]
) -> str:
    """The file's SHA-256, once all of its values are found sound."""
    digest = hashlib.sha256()
    buffer = np.empty(_BLOCK_BYTES, np.uint8)
    problems: dict[str, list[str]] = {}
    try:
        with path.open("rb", buffering=0) as file:
            digest.update(file.read(entries[0].offset))
            for entry in entries:
                dtype, wrong = BITS.get(entry.dtype), None
                for start in range(0, entry.bytes, _BLOCK_BYTES):
                    block = buffer[: entry.bytes - start]
                    if file.readinto(block.data) != block.size:
                        raise UserError(f"{path}: ended while it was read; it must not change")
                    digest.update(block.data)
                    if dtype is not None and wrong is None:
                        wrong = check_bits(block.view(dtype), entry.dtype, kind)
                    advance(block.size)
                if wrong is not None:
                    problems.setdefault(wrong, []).append(f"'{entry.name}'")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if problems:
        raise UserError("; ".join(_describe(path, *item) for item in problems.items()))
    return digest.hexdigest()


def _describe(path: Path, problem: str, names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    several = "tensors" if len(names) > 1 else "tensor"
    verb = "hold" if len(names) > 1 else "holds"
    return f"{path}: {several} {', '.join(names[:_SHOWN])}{more} {verb} {problem}"


def check_bits(bits: np.ndarray, dtype: str, kind: Kind) -> str | None:
    """What the values hold that they must not, or None.

    By numpy, not by a compiled loop: these take a second to load, in which files are hashed.
    """
    sign, infinity = _SIGN[dtype], _INFINITY[dtype]
    if not bits.size or (kind == "importance" and bits.max() < infinity):
        return None
    if np.bitwise_and(bits, bits.dtype.type(sign - 1)).max() >= infinity:
        return NOT_FINITE[kind]
    # Negative zeros are zeros.
    return NEGATIVE if kind == "importance" and bits.max() > sign else None
