"""What evaluations have found, by what was evaluated: kept on disk, so that nothing is asked twice.

Unlike a search's trials these have no order: any of them may be there, or not.
"""

import json
from pathlib import Path
from typing import Any

from merge.common.json_lines import LineStore


class OutcomeJournal:
    """A line of JSON for each outcome, with all that it depends on as its key.

    Raises:
        UserError: the file cannot be read or written, or has a broken line that is not its last.
    """

    def __init__(self, path: Path) -> None:
        self._store = LineStore(path)

    def find(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """The outcome under this key, if there is one."""
        return self._store.values.get(_text(key))

    def add(self, key: dict[str, Any], outcome: dict[str, Any]) -> None:
        """Record an outcome; on disk when this returns."""
        self._store.add({_text(key): outcome})


def _text(key: dict[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)
