"""The trials of a search on disk, so that an interrupted search goes on as if it had not been.

The sampler's choices depend on its random numbers so far, which no optuna storage keeps. So a rerun
goes through the same trials again in memory, and takes the outcomes of those done from here.
"""

import json
from pathlib import Path

from launch.search.choice import Outcome, Tried
from launch.search.trial_cost import add_cost
from merge.common.files import atomic_write_json, atomic_write_text, read_json
from merge.common.json_lines import read_lines
from merge.settings import MergeSettings


class TrialJournal:
    """Settings and outcomes in their order, one JSON line each; always whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._plan = path.with_suffix(".plan.json")
        self._tried = self._read()

    def planned(self, trials: int) -> int:
        """How many trials there should be when the first was drawn; ``trials`` if none is yet.

        The sampler draws a share of them at random. With the first count a search for more trials
        draws those that are there again, and goes on from them.

        Raises:
            UserError: the count cannot be kept.
        """
        if not self._tried:
            atomic_write_json(self._plan, {"trials": trials})
        return read_json(self._plan)["trials"] if self._plan.is_file() else trials

    @property
    def tried(self) -> list[Tried]:
        """All trials that are done, in their order."""
        return list(self._tried)

    def _read(self) -> list[Tried]:
        return [
            (MergeSettings(**row["settings"]), Outcome(**row["outcome"]))
            for row in read_lines(self._path)
        ]

    def outcome(self, number: int, settings: MergeSettings) -> Outcome | None:
        """What came of trial ``number``, if it was done, and with these settings."""
        if number < len(self._tried) and self._tried[number][0] == settings:
            return self._tried[number][1]
        return None

    def add(
        self, number: int, settings: MergeSettings, outcome: Outcome, seconds: float | None = None
    ) -> None:
        """Record trial ``number``; what stood from there on is forgotten.

        Args:
            seconds: what it has taken.

        Raises:
            UserError: the file cannot be written.
        """
        self._tried[number:] = [(settings, outcome)]
        lines = [
            json.dumps({"settings": tried.model_dump(mode="json"), "outcome": found.as_dict()})
            for tried, found in self._tried
        ]
        atomic_write_text(self._path, "\n".join(lines) + "\n")
        if seconds is not None:
            add_cost(self._path, seconds)
