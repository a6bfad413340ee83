"""Where a patch comes from: its files, training, data and backbone, as records tell it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch.run.trace.files import FileChecks, Places, read_record
from launch.run.trace.node import Node
from launch.run.trace.written import Writers, section
from merge.common.errors import UserError
from merge.common.settings import parse_settings
from merge.io.patch_directory import PATCH_RECORD
from train.chat.example import Example
from train.data.examples import data_hash, read_examples
from train.data.tables import is_file, is_pattern
from train.recipe import DataSettings

_OF_INPUT = {"path", "files", "bytes", "record"}
"""Keys of an input in merge.json; any other that maps files to texts is a further hash of them."""


class PatchTracer:
    """Traces the patches that records name.

    Args:
        writers: tells which version, commit and recipe wrote a record.
    """

    def __init__(self, places: Places, checks: FileChecks, writers: Writers) -> None:
        self._places = places
        self._checks = checks
        self._writers = writers

    def patch(self, role: str, merged: Mapping[str, Any]) -> tuple[Node, str | None]:
        """A patch and what it was made from.

        Args:
            merged: what a merge's record says of it: path, hashes and, since there is ``trace``,
                what its patch.json said.

        Returns:
            The patch, and the fingerprint of the backbone that it was trained from, if recorded.
        """
        folder = self._places.now(str(merged.get("path", "")))
        there = (folder / PATCH_RECORD).is_file()
        node = Node(f"{role.replace('_', '-')} patch", path=folder)
        node.state = "there" if there else "gone"
        record = read_record(folder / PATCH_RECORD, node) or section(merged, "record")
        config = section(record, "config")
        training = section(config, "training")
        told = {
            "seed": config.get("seed"),
            "objective": training.get("objective"),
            "learning_rate": training.get("learning_rate"),
            "steps": record.get("steps"),
            "stopped": record.get("stop_reason"),
            "backbone": section(config, "backbone").get("path"),
            "fingerprint": record.get("backbone_fingerprint"),
        }
        node.facts = {key: value for key, value in told.items() if value is not None}
        if not record:
            node.notes.append("its data, seed and steps are not recorded, and it is gone")
        else:
            self._writers.tell(node, record)
        node.made_of = [*self._files(folder, merged, record), *self._data(role, record)]
        return node, record.get("backbone_fingerprint")

    def _files(
        self, folder: Path, merged: Mapping[str, Any], record: Mapping[str, Any]
    ) -> list[Node]:
        """By merge.json, and by patch.json those that the merge has not read."""
        others = {key: section(merged, key) for key in merged.keys() - _OF_INPUT}
        sizes = section(merged, "bytes")
        nodes = {}
        for name, digest in section(merged, "files").items():
            more = {key: str(by[name]) for key, by in sorted(others.items()) if name in by}
            nodes[name] = self._checks.file(
                "file", folder / name, str(digest), sizes.get(name), more
            )
        for name, digest in section(section(record, "hashes"), "sha256").items():
            if name not in nodes:
                nodes[name] = self._checks.file("file", folder / name, str(digest))
        return list(nodes.values())

    def _data(self, role: str, record: Mapping[str, Any]) -> list[Node]:
        config = section(record, "config")
        wanted = section(config, "training").get("data", "harmful")
        parts = ("harmful", "false_refusals") if wanted == "both" else (wanted,)
        values = {
            "harmful": section(config, "data"),
            "false_refusals": section(self._places.recipe, "false_refusals"),
        }
        trained = [values[part] for part in parts if part in values]
        nodes = [self._pairs("data", trained, record.get("data_hash"))]
        if record.get("harmless_hash"):
            harmless = [section(config, "harmless")]
            nodes.append(self._pairs("harmless data", harmless, record["harmless_hash"]))
        return [node for node in nodes if node is not None]

    def _pairs(self, what: str, sources: list[dict[str, Any]], recorded: Any) -> Node | None:
        """Pairs of a training; with ``verify`` they are read and hashed as the training did."""
        paths = [str(source["path"]) for source in sources if "path" in source]
        if recorded is None or len(paths) < len(sources):
            return None
        node = Node(what, " and ".join(str(self._places.now(path)) for path in paths))
        node.recorded = {"data_hash": str(recorded)}
        files = [self._places.now(path) for path in paths if is_file(path)]
        if len(files) < len(paths):
            node.notes.append("a set on the hub is not compared")
        elif any(not file.is_file() and not is_pattern(str(file)) for file in files):
            node.state = "gone"
        elif not self._checks.verify:
            node.state = "there"
        else:
            self._compare_pairs(node, sources, files, str(recorded))
        return node

    def _compare_pairs(
        self, node: Node, sources: list[dict[str, Any]], files: list[Path], recorded: str
    ) -> None:
        examples: list[Example] = []
        try:
            for source, file in zip(sources, files, strict=True):
                settings = parse_settings(DataSettings, {**source, "path": str(file)}, node.what)
                examples += read_examples(settings)
        except UserError as error:
            node.state = "changed"
            node.mismatches.append(
                f"{node.name}: does not hold the pairs of the training ({error})"
            )
            return
        actual = data_hash(examples)
        node.state = "unchanged" if actual == recorded else "changed"
        if actual != recorded:
            node.mismatches.append(
                f"{node.name}: its pairs have the hash {actual}, and {recorded} is recorded"
            )
