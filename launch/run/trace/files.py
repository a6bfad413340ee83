"""Whether a recorded file is still what its record says, and where it is now."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch.run.folder import RECIPE
from launch.run.trace.node import Node, State
from merge.common.errors import UserError
from merge.common.files import read_json, sha256_file
from merge.common.yaml_file import read_yaml

_WEIGHTS = {".safetensors", ".bin"}
"""Files so large that they are hashed on request only; all others always are."""


class Places:
    """Where files are now whose records were written when the run folder may have been elsewhere.

    Args:
        run: the run folder as it is now; ``None`` of a report that belongs to none.
    """

    def __init__(self, run: Path | None) -> None:
        self.run = run
        self.recipe: dict[str, Any] = {}
        self.problem: str | None = None
        """Why the run folder's recipe cannot be read."""
        if run is not None and (run / RECIPE).is_file():
            try:
                values = read_yaml(run / RECIPE, "recipe")
            except UserError as error:
                self.problem = str(error)
            else:
                self.recipe = values if isinstance(values, dict) else {}

    def now(self, recorded: str) -> Path:
        """A recorded path; one inside the run folder counts from where that is now."""
        output = self.recipe.get("output")
        if self.run is not None and isinstance(output, str):
            for before in (Path(output), Path(output).absolute()):
                if Path(recorded).is_relative_to(before):
                    return self.run / Path(recorded).relative_to(before)
        return Path(recorded)


class FileChecks:
    """Compares files with what is recorded of them, each file once.

    Args:
        verify: whether weights are hashed too, not compared by their size alone.
    """

    def __init__(self, verify: bool) -> None:
        self.verify = verify
        self._hashes: dict[Path, str] = {}

    def file(
        self,
        what: str,
        path: Path,
        sha256: str | None,
        size: int | None = None,
        other_hashes: Mapping[str, str] | None = None,
        name: str = "",
    ) -> Node:
        """What a file is now beside what a record says.

        Args:
            sha256: as recorded; ``None`` where it is not.
            size: recorded bytes, if they are.
            other_hashes: by algorithm; they are shown, and not computed.

        Raises:
            UserError: the file cannot be read.
        """
        recorded = {} if sha256 is None else {"sha256": sha256}
        node = Node(what, name, path, recorded={**recorded, **(other_hashes or {})})
        node.state, problem = self._compared(path, sha256, size)
        if problem is not None:
            node.mismatches.append(f"{path}: {problem}")
        return node

    def _compared(
        self, path: Path, sha256: str | None, size: int | None
    ) -> tuple[State, str | None]:
        if not path.is_file():
            return "gone", None
        if size is not None and path.stat().st_size != size:
            return "changed", f"has {path.stat().st_size} bytes, and {size} are recorded"
        if sha256 is None:
            return "there" if size is None else "same size", None
        if path.suffix in _WEIGHTS and not self.verify:
            return "there" if size is None else "same size", None
        actual = self.sha256(path)
        if actual != sha256:
            return "changed", f"has the SHA-256 {actual}, and {sha256} is recorded"
        return "unchanged", None

    def sha256(self, path: Path) -> str:
        """The hash of a file as it is now.

        Raises:
            UserError: it cannot be read.
        """
        key = path.resolve()
        if key not in self._hashes:
            try:
                self._hashes[key] = sha256_file(path)
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        return self._hashes[key]


def read_record(path: Path, node: Node) -> dict[str, Any]:
    """A JSON record; empty where it is not there, or is none any more, which the node then says."""
    if not path.is_file():
        return {}
    try:
        return read_json(path)
    except UserError as error:
        node.state = "changed"
        node.mismatches.append(str(error))
        return {}


def hashed_files(
    checks: FileChecks,
    places: Places,
    what: str,
    hashes: Any,
    folder: str = "",
    sizes: Any = None,
) -> list[Node]:
    """The files of a record's ``{path: SHA-256}``; nothing where it is not one.

    Args:
        folder: what the paths count from, if they are relative to a recorded folder.
        sizes: recorded bytes by the same paths, if they are.
    """
    if not isinstance(hashes, dict):
        return []
    known = sizes if isinstance(sizes, dict) else {}
    return [
        checks.file(what, places.now(str(Path(folder) / path)), str(digest), known.get(path))
        for path, digest in hashes.items()
    ]
