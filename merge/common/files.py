"""Durable files: whole under their final name, or not there at all."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from merge.common.errors import UserError

PRIVATE_FOLDER = 0o700
"""Permissions of a folder that only its owner may enter: a jailbroken model's, and its answers'."""
logger = logging.getLogger(__name__)

_HASH_BLOCK_BYTES = 1 << 20
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP}
"""What the system says where a filesystem keeps no locks."""


@contextlib.contextmanager
def atomic_writer(path: Path, mode: int | None = None) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` that takes its name when the block succeeds.

    The data is on disk before the rename, and the rename before the block's end. When the block
    fails, the temporary file is removed and what stood under ``path`` is untouched.

    Args:
        mode: permission bits of the file; ``None`` follows the umask, as ``open`` does.

    Raises:
        UserError: the file cannot be written (permission, full disk), naming ``path``.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); check the folder") from None
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~current_umask() if mode is None else mode)
        temporary.replace(path)
        fsync_directory(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); free space?") from None
    finally:
        # The error that is under way counts, not what it has left.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def atomic_write_text(path: Path, text: str, mode: int | None = None) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with atomic_writer(path, mode) as file:
        file.write(text.encode())


def atomic_write_json(path: Path, value: Any, mode: int | None = None) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    atomic_write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", mode)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: the file is missing, unreadable, or holds something other than an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); write it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: must hold a JSON object, not {type(value).__name__}")
    return value


def make_directory(path: Path, mode: int | None = None) -> None:
    """Make ``path`` and its parents; with ``mode``, give the folder itself those permissions.

    Raises:
        UserError: the folder cannot be made or its mode cannot be set, naming ``path``.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Never more open than asked for, not even between making and chmod.
        path.mkdir(mode=0o777 if mode is None else mode, exist_ok=True)
        if mode is not None:
            path.chmod(mode)
    except OSError as error:
        raise UserError(
            f"{path}: folder cannot be made ({error.strerror}); choose another place"
        ) from None


def remove_folder(path: Path) -> None:
    """Delete a folder and all in it; where that fails, a warning says so, and the rest stays."""
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        logger.warning("%s: could not be deleted; delete it by hand", path)


@contextlib.contextmanager
def file_lock(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file ``path``, and delete it at the end; a killed process holds nothing back.

    Where the filesystem has no locks, as some of clusters, a warning says so and the block runs.

    Raises:
        UserError: another process holds it (``busy``), or it cannot be made.
    """
    # A marker in place of a lock would outlive a process that is killed.
    lock = FileLock(path, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(busy) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise UserError(
                f"{path.parent}: no permission to write ({error.strerror}); choose another folder"
            ) from None
        logger.warning(
            "%s: its filesystem has no file locks (%s), so nothing keeps a second command out; "
            "start no other one in this folder meanwhile",
            path.parent,
            error.strerror,
        )
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def counted_from(path: str | Path) -> str:
    """For an error about a path that leads nowhere: from where it counts, if it is relative."""
    path = Path(path).expanduser()
    return "" if path.is_absolute() else f", which counts from {Path.cwd()}"


def sha256_file(path: Path, advance: Callable[[int], object] = lambda count: None) -> str:
    """SHA-256 of a file's bytes, as hexadecimal.

    Args:
        advance: called with the number of bytes of each block that was read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def sha256_json(value: Any, sort_keys: bool = False) -> str:
    """SHA-256 of a value as JSON, as hexadecimal.

    Args:
        sort_keys: the order of an object's keys does not count.
    """
    return hashlib.sha256(json.dumps(value, sort_keys=sort_keys).encode()).hexdigest()


def fsync_directory(path: Path) -> None:
    """Make the renames inside ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def current_umask() -> int:
    """The process's umask; reading it means setting it for an instant."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def free_bytes(folder: Path) -> int:
    """Free bytes of the disk on which a folder lies, or will lie."""
    existing = next(path for path in (folder, *folder.resolve().parents) if path.is_dir())
    return shutil.disk_usage(existing).free
