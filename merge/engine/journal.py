"""What of an output folder is finished, so that a killed merge continues where it was."""

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge.common.errors import UserError
from merge.common.files import (
    atomic_write_text,
    file_lock,
    fsync_directory,
    make_directory,
    read_json,
    sha256_file,
)
from merge.common.json_lines import drop_torn_line
from merge.engine.input_check import CheckedFile
from merge.engine.inputs import MergeInputs
from merge.io.layout import OutputShard
from merge.io.shard_writer import publish, sealed_path
from merge.settings import MergeSettings

RECORD = "merge.json"
_JOURNAL = ".merge-journal.jsonl"
_LOCK = ".merge-lock"
_CODE_VERSION = 1
"""Raised when the same inputs and settings would give other bits."""
IDENTITY_FORMAT = 2
"""Version of the hash. Version 1, whose records do not name it, hashed every setting."""


@dataclass(frozen=True)
class MergeIdentity:
    """What a merge is known by.

    Attributes:
        now: SHA-256 over the settings that differ from the defaults, so that one that comes later
            changes nothing, and over layout and inputs.
        earlier: what older versions called the same merge.
    """

    now: str
    earlier: str

    def fits(self, recorded: Any) -> bool:
        """Whether a record is of this merge."""
        return recorded in (self.now, self.earlier)


def merge_identity(
    inputs: MergeInputs, settings: MergeSettings, shards: list[OutputShard]
) -> MergeIdentity:
    """SHA-256 over settings, output layout, and every input file's name, size, date and header."""
    differing = settings.model_dump_json(exclude_defaults=True)
    now = f"{_CODE_VERSION} format {IDENTITY_FORMAT}\n{differing}\n"
    earlier = f"{_CODE_VERSION}\n{settings.model_dump_json()}\n"
    return MergeIdentity(*(_digest(text, inputs, shards) for text in (now, earlier)))


def _digest(text: str, inputs: MergeInputs, shards: list[OutputShard]) -> str:
    digest = hashlib.sha256(text.encode())
    for shard in shards:
        digest.update(f"{shard.name} {shard.size}\n".encode() + shard.header)
    indices = [inputs.backbone]
    for patch in inputs.patches.values():
        digest.update(json.dumps(patch.metadata, sort_keys=True).encode())
        indices += [patch.delta, patch.importance]
    for index in indices:
        for name, entry in index.items():
            digest.update(f"{name} {entry.dtype} {entry.shape} {entry.offset}\n".encode())
        for file in index.files:
            status = file.stat()
            digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Make the folder, and keep other merges out of it; a killed process holds nothing back.

    A folder that was made here and is left empty is removed: a refused merge leaves nothing.

    Raises:
        UserError: another merge is writing there, or the folder cannot be made.
    """
    existed = directory.exists()
    make_directory(directory)
    try:
        with file_lock(
            directory / _LOCK, f"{directory}: another merge is writing here; wait for it"
        ):
            yield
    finally:
        if not existed and not any(directory.iterdir()):
            directory.rmdir()


class Journal:
    """What of an unfinished output is done; its folder must be held by ``exclusive``.

    A line of JSON each for the merge's identity, every input file that was hashed and found
    sound, and every output file that is whole, under its final name or not yet. Lines may come
    from several threads.
    """

    def __init__(self, directory: Path, identity: MergeIdentity) -> None:
        self._directory = directory
        self._path = directory / _JOURNAL
        self._identity = identity
        self._lock = threading.Lock()
        self._files: list[str] = []

    def is_complete(self) -> bool:
        """Whether this very merge is done already.

        Raises:
            UserError: the folder holds something else.
        """
        record = self._directory / RECORD
        if not record.is_file():
            return False
        if not self._identity.fits(read_json(record).get("identity")):
            raise UserError(
                f"{self._directory}: holds a merge of other inputs or settings; delete it, or "
                "choose another output"
            )
        self._path.unlink(missing_ok=True)
        return True

    def resume(self) -> tuple[dict[str, dict[str, Any]], dict[Path, CheckedFile]]:
        """What an earlier, interrupted run of this merge has left.

        Returns:
            File name -> record of each whole output file, and the inputs that it has checked.

        Raises:
            UserError: the folder holds files of something else.
        """
        if not self._path.is_file():
            refuse_strangers(self._directory)
            atomic_write_text(self._path, json.dumps({"identity": self._identity.now}) + "\n")
            return {}, {}
        # What is added next would else be glued to it, and lost with it.
        drop_torn_line(self._path)
        first, *lines = self._lines()
        if not self._identity.fits(first.get("identity")):
            raise UserError(
                f"{self._directory}: holds an unfinished merge of other inputs or settings; "
                "delete it, or choose another output"
            )
        whole = [line for line in lines if "file" in line and self._is_whole(line)]
        sealed = [sealed_path(self._directory, line["file"]) for line in whole]
        for leftover in self._directory.rglob(".*.tmp"):
            if leftover not in sealed:
                leftover.unlink()
        self._files = [line["file"] for line in lines if "file" in line]
        checked = {
            Path(line["input"]): CheckedFile(line["sha256"], tuple(line["stamp"]), line.get("fast"))
            for line in lines
            if "input" in line
        }
        return {line["file"]: line for line in whole}, checked

    def add_output(self, record: dict[str, Any]) -> None:
        """Record a sealed file: its name under "file", its "sha256", and what else is known."""
        self._add(record, durable=True)
        self._files.append(record["file"])

    def add_input(self, path: Path, checked: CheckedFile) -> None:
        """Record an input file that need not be checked again."""
        record = {"input": str(path), "sha256": checked.sha256, "stamp": checked.stamp}
        record |= {} if checked.fast is None else {"fast": checked.fast}
        # Lost in a power cut, it costs a second check, and nothing else.
        self._add(record, durable=False)

    def _add(self, record: dict[str, Any], durable: bool) -> None:
        try:
            with self._lock, self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
                file.flush()
                if durable:
                    os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"{self._path}: cannot be written ({error.strerror})") from None

    def publish(self) -> None:
        """Give the recorded files their final names."""
        publish(self._directory, self._files)

    def remove(self) -> None:
        """Forget: the merge is complete."""
        self._path.unlink(missing_ok=True)
        fsync_directory(self._directory)

    def discard(self) -> None:
        """Forget a merge that is refused, and remove the files that it has made."""
        for name in self._files:
            for path in (self._directory / name, sealed_path(self._directory, name)):
                path.unlink(missing_ok=True)
        self.remove()

    def _lines(self) -> list[dict[str, Any]]:
        lines = []
        for line in self._path.read_text(encoding="utf-8").split("\n"):
            # An older version went on behind half a line, which a kill had left.
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
        return lines or [{}]

    def _is_whole(self, line: dict[str, Any]) -> bool:
        places = (self._directory / line["file"], sealed_path(self._directory, line["file"]))
        path = next((place for place in places if place.is_file()), None)
        return path is not None and sha256_file(path) == line["sha256"]


def refuse_strangers(directory: Path) -> None:
    """See that an output folder is empty.

    Raises:
        UserError: naming what it holds.
    """
    strangers = sorted(path.name for path in directory.iterdir() if path.name != _LOCK)
    if strangers:
        raise UserError(
            f"{directory}: already holds {', '.join(strangers[:3])}, which no merge would "
            "overwrite; choose an empty output"
        )
