"""One thing that a report was made from, what is recorded of it, and whether it is still so."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

State = Literal["unchanged", "same size", "there", "changed", "gone", "not recorded"]
"""State of a file: its hash is the recorded one; its size is, and the hash was not computed;
nothing is recorded to compare with; it is another one; it is not there. Of what should be recorded:
it is not."""


@dataclass
class Node:
    """A file, or a folder of them, and what it was made from.

    Attributes:
        what: what it is, in a word or two.
        name: its name among those of its kind; empty where there is one only.
        path: where it is now, or where it was.
        state: ``None`` of what is nothing but its parts.
        recorded: its hashes by algorithm, as a record names them.
        facts: what a record says about how the node was made.
        written: version, commit and recipe that wrote it.
        notes: whole sentences about what is missing, or differs from another record.
        made_of: what it was made from, or consists of.
    """

    what: str
    name: str = ""
    path: Path | None = None
    state: State | None = None
    recorded: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    made_of: list["Node"] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)
    """What is not as it was recorded, a clause each that can stand alone."""

    def all_mismatches(self) -> list[str]:
        """The mismatches of this node and of all nodes below it, each once."""
        return list(dict.fromkeys(line for node in self.walk() for line in node.mismatches))

    def walk(self) -> Iterator["Node"]:
        """This and everything below it."""
        yield self
        for node in self.made_of:
            yield from node.walk()

    def as_dict(self) -> dict[str, Any]:
        """The tree as JSON values, without what is empty."""
        values = {
            "what": self.what,
            "name": self.name,
            "path": None if self.path is None else str(self.path),
            "state": self.state,
            "recorded": self.recorded,
            "facts": self.facts,
            "written_by": self.written,
            "notes": self.notes,
            "mismatches": self.mismatches,
            "made_of": [node.as_dict() for node in self.made_of],
        }
        return {key: value for key, value in values.items() if value not in (None, "", {}, [])}
