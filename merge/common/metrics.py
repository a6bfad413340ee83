"""Numbers of a run as JSON lines, so that any tracker can read them: ``RUN/metrics/STAGE.jsonl``.

A line is one object: ``time`` (Unix seconds) and what was recorded. Numbers that JSON has no word
for (NaN, infinity) are null. A process that is killed may leave a torn last line, which the next
one cuts off; where a stage was started again, the last line of a step counts.
"""

import json
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from merge.common.errors import UserError
from merge.common.files import make_directory
from merge.common.json_lines import drop_torn_line

FOLDER = "metrics"
"""In a run folder."""


class MetricsFile:
    """The lines of one stage; any thread may add to them."""

    def __init__(self, path: Path) -> None:
        make_directory(path.parent)
        self._path = path
        self._lock = threading.Lock()
        try:
            self._file = path.open("ab", buffering=0)
            drop_torn_line(path)
        except OSError as error:
            raise self._unwritable(error) from None

    def add(self, values: Mapping[str, Any]) -> None:
        """Write one line.

        Raises:
            UserError: the disk is full.
        """
        line = {"time": round(time.time(), 3)} | {key: _plain(v) for key, v in values.items()}
        data = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        with self._lock:
            try:
                self._file.write(data)
            except OSError as error:
                raise self._unwritable(error) from None

    def close(self) -> None:
        self._file.close()

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            f"{self._path}: cannot be written ({error.strerror}); free space or give permission, "
            "and run again"
        )


_current: ContextVar[MetricsFile | None] = ContextVar("metrics", default=None)


@contextmanager
def metrics_file(run: Path, stage: str) -> Iterator[None]:
    """Send what is recorded inside the block to ``RUN/metrics/STAGE.jsonl``.

    Raises:
        UserError: the file cannot be written.
    """
    file = MetricsFile(run / FOLDER / f"{stage}.jsonl")
    token = _current.set(file)
    try:
        yield
    finally:
        _current.reset(token)
        file.close()


def current_metrics() -> MetricsFile | None:
    """The file of the block that the caller is in; ``None`` outside of any."""
    return _current.get()


def record(values: Mapping[str, Any]) -> None:
    """Add a line to the file of the block that the caller is in, where it is in one."""
    file = current_metrics()
    if file is not None:
        file.add(values)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
