"""Where an evaluated model comes from: its merge, that merge's patches, and the backbone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch.run.trace.files import FileChecks, Places, hashed_files, read_record
from launch.run.trace.node import Node
from launch.run.trace.patches import PatchTracer
from launch.run.trace.written import Writers, section
from merge.common.errors import UserError
from merge.common.files import sha256_json
from merge.engine.journal import RECORD
from merge.io.fingerprint import backbone_fingerprint
from train.recipe import ROLES

_WEIGHTS = "weights_sha256"
_ABOVE = "told above"


class ModelTracer:
    """Traces models; inputs that several share are listed in full once."""

    def __init__(self, places: Places, checks: FileChecks, writers: Writers) -> None:
        self._places = places
        self._checks = checks
        self._writers = writers
        self._patches = PatchTracer(places, checks, writers)
        self._told: set[tuple[str, ...]] = set()
        self._fingerprints: dict[Path, str] = {}

    def model(
        self, recorded: str | None, identity: Mapping[str, Any], evaluated: Mapping[str, Any]
    ) -> Node:
        """A model and what it was made from.

        Args:
            recorded: the path of its folder, if it is recorded or known.
            identity: hashes of its weights, and of its tokenizer and configuration, as evaluated.
            evaluated: what its merge.json said then; empty of another model or an old record.
        """
        hashes = {key: str(identity[key]) for key in sorted(identity, reverse=True)}
        if recorded is None:
            note = "where it was is not recorded"
            return Node("model", state="not recorded", recorded=hashes, notes=[note])
        folder = self._places.now(recorded)
        node = Node("model", path=folder, recorded=hashes)
        if not self._is_first("model", str(folder), *hashes.values()):
            node.notes.append(_ABOVE)
            return node
        node.state = "there" if folder.is_dir() else "gone"
        here = read_record(folder / RECORD, node)
        is_another = bool(here and evaluated) and here.get("identity") != evaluated.get("identity")
        merge = evaluated if is_another else here or evaluated
        if not merge:
            if node.state == "there":
                self._compare_weights(node, folder)
            else:
                node.notes.append("what it was made from is not recorded")
            return node
        if is_another:
            node.state = "changed"
            node.mismatches.append(f"{folder}: holds another merge than the one that was evaluated")
        named = weights_hash(section(merge, "outputs"))
        if identity.get(_WEIGHTS) not in (None, named):
            node.state = "changed"
            node.mismatches.append(
                f"{folder}: its {RECORD} names other weights ({named}) than those that were "
                f"evaluated ({identity[_WEIGHTS]})"
            )
        node.made_of = [self.merge(folder, recorded, merge)]
        return node

    def merge(self, folder: Path, recorded: str, merge: Mapping[str, Any]) -> Node:
        """A merge, the files that it wrote, and what they were made from.

        Args:
            folder: of the patched model, now.
            recorded: its path in the records.
            merge: its merge.json, or what is kept of that.
        """
        node = Node("merge", path=folder / RECORD)
        node.state = "there" if (folder / RECORD).is_file() else "gone"
        settings = section(merge, "settings")
        node.facts = {key: value for key, value in settings.items() if value not in (None, [], {})}
        if "applied" in merge:
            node.notes.append(f"made by merge apply of a delta file: {merge['applied']}")
        else:
            self._writers.tell(node, merge)
        outputs = section(merge, "outputs")
        if not folder.is_dir():
            outputs = {name: outputs[name] for name in outputs if _is_weights(name)}
        sizes = merge.get("output_bytes")
        node.made_of = hashed_files(self._checks, self._places, "file", outputs, recorded, sizes)
        inputs = section(merge, "inputs")
        trained_from = {}
        for role in ROLES:
            if role in inputs:
                merged = section(inputs, role)
                patch, trained_from[role] = self._patches.patch(role, merged)
                hashes = map(str, section(merged, "files").values())
                if not self._is_first(role, str(patch.path), *hashes):
                    patch.made_of, patch.facts, patch.notes = [], {}, [_ABOVE]
                    patch.written = {}
                node.made_of.append(patch)
        if "backbone" in inputs:
            node.made_of.append(self._backbone(section(inputs, "backbone"), trained_from))
        return node

    def _backbone(self, merged: Mapping[str, Any], trained_from: Mapping[str, str | None]) -> Node:
        recorded = str(merged.get("path", ""))
        folder = self._places.now(recorded)
        files = section(merged, "files")
        node = Node("backbone", path=folder, recorded={_WEIGHTS: weights_hash(files)})
        node.state = "there" if folder.is_dir() else "gone"
        if node.state == "there":
            self._compare_fingerprint(node, folder, trained_from)
        if not self._is_first("backbone", str(folder), *map(str, files.values())):
            node.notes.append(_ABOVE)
            return node
        sizes = merged.get("bytes")
        node.made_of = hashed_files(self._checks, self._places, "file", files, recorded, sizes)
        merge = read_record(folder / RECORD, node)
        if merge:
            node.made_of.append(self.merge(folder, recorded, merge))
        return node

    def _compare_fingerprint(
        self, node: Node, folder: Path, trained_from: Mapping[str, str | None]
    ) -> None:
        """See that the patches are of this backbone; its fingerprint needs a part of its bytes."""
        if not any(trained_from.values()):
            return
        try:
            if folder not in self._fingerprints:
                self._fingerprints[folder] = backbone_fingerprint(folder)
        except UserError as error:
            node.state = "changed"
            node.mismatches.append(f"{folder}: is no model any more ({error})")
            return
        fingerprint = self._fingerprints[folder]
        node.facts["fingerprint"] = fingerprint
        for role, expected in trained_from.items():
            if expected not in (None, fingerprint):
                node.state = "changed"
                node.mismatches.append(
                    f"{folder}: has the fingerprint {fingerprint}, and the {role} patch was "
                    f"trained from {expected}"
                )

    def _compare_weights(self, node: Node, folder: Path) -> None:
        """With ``verify``: hash a model that no merge of this project made as evaluations do."""
        if not self._checks.verify:
            return
        from eval.answering.loading import model_identity

        identity = model_identity(folder)
        node.state = "unchanged"
        for key, digest in node.recorded.items():
            if identity.get(key) not in (None, digest):
                node.state = "changed"
                node.mismatches.append(f"{folder}: has the {key} {identity[key]}, not {digest}")

    def _is_first(self, *key: str) -> bool:
        new = key not in self._told
        self._told.add(key)
        return new


def weights_hash(files: Mapping[str, Any]) -> str:
    """``weights_sha256`` of an evaluation, from the SHA-256 of each of the model's files.

    Equal to what ``eval.answering.loading.model_identity`` computes of the files themselves.
    """
    listing = [[name, files[name]] for name in sorted(files) if _is_weights(name)]
    return sha256_json(listing)


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors")
