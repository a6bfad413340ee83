"""The patch directory: the delta and the importance of one training, and what they come from.

``patch.json`` is written last: a directory without it is an unfinished one.
"""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from merge.common.errors import UserError, collect
from merge.common.files import atomic_write_json, make_directory
from merge.io.patch_hashes import hashes_record
from merge.io.tensor_files import TensorIndex, parse_json, read_index
from merge.io.tensor_stream import TensorStream

Role = Literal["safety", "over_safety"]
LETTERS: dict[Role, str] = {"safety": "S", "over_safety": "O"}
"""How merge.json's counts name the patches."""
PATCH_RECORD = "patch.json"
FORMAT = 1
_SHARD_BYTES = 5_000_000_000


class PatchWriter:
    """Writes a patch directory one tensor at a time; use as a context manager.

    Deltas and importances come in any order. Memory: the tensor in hand. When the block ends
    well, the files take their final names and ``patch.json`` follows; when it fails, nothing of
    it is left. ``patch.json`` has two hashes of each, for which a file is read from the page cache
    as soon as it is full.

    Args:
        metadata: further JSON keys of patch.json, for example ``"score": "gradient"``.
        shard_bytes: a file is closed once it is that large; more than one file gets an index.
        directory_mode: permissions of the folder; 0o700 makes the files 0o600.

    Raises:
        UserError: the folder cannot be written, already holds a patch, or the disk is full.
    """

    def __init__(
        self,
        directory: Path,
        role: Role,
        metadata: dict[str, Any],
        shard_bytes: int = _SHARD_BYTES,
        directory_mode: int | None = None,
    ) -> None:
        self._directory = directory
        self._record = {"format": FORMAT, "role": role, **metadata}
        self._mode = None if directory_mode is None else directory_mode & 0o666
        make_directory(directory, directory_mode)
        if (directory / PATCH_RECORD).exists():
            raise UserError(f"{directory}: already holds a patch; delete it or choose another")
        self._delta = TensorStream(directory, "delta", shard_bytes, self._mode)
        self._importance = TensorStream(directory, "importance", shard_bytes, self._mode)

    def add_delta(self, name: str, values: np.ndarray) -> None:
        """Add one parameter's difference from the backbone (fp32, C-contiguous, its shape)."""
        self._delta.add(name, values)

    def add_importance(self, name: str, values: np.ndarray) -> None:
        """Add one parameter's importance (fp32, C-contiguous, its shape, not negative)."""
        self._importance.add(name, values)

    def __enter__(self) -> "PatchWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        complete = False
        try:
            if kind is None:
                hashes = hashes_record(self._delta.finish() | self._importance.finish())
                atomic_write_json(self._directory / PATCH_RECORD, self._record | hashes, self._mode)
                complete = True
        finally:
            if not complete:
                # First, so that it never stands without its files.
                with suppress(OSError):
                    (self._directory / PATCH_RECORD).unlink(missing_ok=True)
                self._delta.discard()
                self._importance.discard()


@dataclass(frozen=True)
class PatchDirectory:
    """A finished patch."""

    path: Path
    role: Role
    metadata: dict[str, Any]
    """All of patch.json."""
    delta: TensorIndex
    importance: TensorIndex

    @property
    def holds_gradients(self) -> bool:
        """Whether the importance files hold G, from which scores are computed, or ready scores."""
        return self.metadata.get("score") == "gradient"


def read_patch(directory: Path) -> PatchDirectory:
    """Read a patch's record and the headers of its files.

    Raises:
        UserError: unfinished, malformed, or of a later format.
    """
    path = directory / PATCH_RECORD
    try:
        record = parse_json(path, path.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"{directory}: no {PATCH_RECORD}, so no finished patch; train it, or write a "
            "patch.json " + json.dumps({"format": FORMAT, "role": "safety"})
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if record.get("format") != FORMAT:
        raise UserError(f"{path}: 'format' must be {FORMAT}, not {record.get('format')!r}")
    role = record.get("role")
    if role != "safety" and role != "over_safety":
        raise UserError(f"{path}: 'role' must be safety or over_safety, not {role!r}")
    if record.get("score") not in (None, "gradient", "ready"):
        raise UserError(f"{path}: 'score' must be gradient or ready, not {record['score']!r}")
    delta, importance = collect(
        [lambda stem=stem: read_index(directory, stem) for stem in ("delta", "importance")]
    )
    return PatchDirectory(directory, role, record, delta, importance)
