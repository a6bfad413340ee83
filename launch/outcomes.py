"""What evaluations have found, by what was evaluated: kept on disk, so that nothing is asked twice.

Unlike a search's trials these have no order: any of them may be there, or not.
"""

import json
import os
from pathlib import Path
from typing import Any

from merge.errors import UserError
from merge.files import atomic_write_text


class OutcomeJournal:
    """A line of JSON for each outcome, with all that it depends on as its key."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._outcomes: dict[str, dict[str, Any]] = {}
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        # A kill in the midst of a line leaves half of it, always the last.
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            atomic_write_text(path, whole)
        for line in whole.splitlines():
            row = json.loads(line)
            self._outcomes[_text(row["key"])] = row["outcome"]

    def find(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """The outcome under this key, if there is one."""
        return self._outcomes.get(_text(key))

    def add(self, key: dict[str, Any], outcome: dict[str, Any]) -> None:
        """Record an outcome; on disk when this returns.

        Raises:
            UserError: the file cannot be written.
        """
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "outcome": outcome}) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"{self._path}: cannot be written ({error.strerror})") from None
        self._outcomes[_text(key)] = outcome


def _text(key: dict[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)
