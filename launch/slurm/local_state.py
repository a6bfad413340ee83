"""How far a stage is that no job of a cluster does: it runs on this machine, or has not begun."""

import fcntl
import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from merge.common.metrics import FOLDER

_TAIL_BYTES = 20_000
_LOSS = "loss/forget(nats)"


def local_state(run: Path, stage: str) -> tuple[str, str]:
    """State and detail: ``running`` with its last numbers, ``interrupted`` or ``not begun``."""
    progress = _last_progress(run / FOLDER / f"{stage}.jsonl")
    if _is_held(run / f".{stage}.lock"):
        return "running", progress
    if progress or (run / f"{stage}.work").is_dir():
        return "interrupted", f"{progress}; the same command continues" if progress else ""
    return "not begun", ""


def _is_held(lock: Path) -> bool:
    """Whether a process holds a lock file (``merge.common.files.file_lock``)."""
    try:
        file = lock.open("rb")
    except OSError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a filesystem without locks
            return False
    return False


def _last_progress(metrics: Path) -> str:
    """The last line of a stage that says how far it is, for people."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, metrics.stat().st_size - _TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return ""
    for line in reversed(lines):
        try:
            values = json.loads(line)
        except ValueError:  # the first line may be cut
            continue
        if isinstance(values, dict) and "done" in values:
            return _line(values)
    return ""


def _line(values: dict[str, Any]) -> str:
    total, left, loss = values.get("total"), values.get("seconds_left"), values.get(_LOSS)
    parts = [
        f"{values['what']}: {values['done']}{f' of {total}' if total else ''} {values['unit']}"
    ]
    parts += [f"forget loss {loss:.4g}"] if loss is not None else []
    parts += [f"{tqdm.format_interval(left)} left"] if left else []
    return ", ".join(parts)
