"""The two hashes of a patch's own files: SHA-256 for people, and a fast one that the merger checks.

The fast one is a tree, so that tensors may be read in any order and by any thread: XXH3 with 128
bits of the file's header, and of every run of 131,072 bytes of each tensor, and XXH3 again of all
of these digests in the order of the file. It finds damage, not malice: SHA-256 is what
``merge verify`` compares (issue 18).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xxhash import xxh3_128_digest, xxh3_128_hexdigest

from merge.common.errors import UserError
from merge.io.tensor_files import TensorEntry, read_header

LEAF_BYTES = 1 << 17
FAST = "xxh3_128_tree"
"""What the fast hash is called in patch.json and merge.json."""
_KEY = "hashes"
_DIGEST_BYTES = 16


@dataclass(frozen=True)
class FileHashes:
    """What patch.json says of one file, both hexadecimal."""

    sha256: str
    fast: str


class LeafDigests:
    """The fast hash of one file, whose parts come in any order and from any thread.

    Args:
        entries: its tensors in the order of their bytes.
    """

    def __init__(self, entries: Sequence[TensorEntry]) -> None:
        self._first: dict[str, int] = {}
        leaves = 0
        for entry in entries:
            self._first[entry.name] = leaves
            leaves += -(-entry.bytes // LEAF_BYTES)
        self._digests = bytearray(leaves * _DIGEST_BYTES)
        self._known = bytearray(leaves)

    def add(self, entry: TensorEntry, position: int, data: memoryview) -> None:
        """Hash bytes of a tensor; they begin and end where a run does, or at the tensor's end.

        Args:
            position: of the first byte in the tensor.
        """
        leaf = self._first[entry.name] + position // LEAF_BYTES
        for start in range(0, len(data), LEAF_BYTES):
            digest = xxh3_128_digest(data[start : start + LEAF_BYTES])
            self._digests[leaf * _DIGEST_BYTES : (leaf + 1) * _DIGEST_BYTES] = digest
            self._known[leaf] = 1
            leaf += 1

    def missing(self, entry: TensorEntry) -> list[int]:
        """Positions in a tensor of the runs that were not added."""
        first = self._first[entry.name]
        runs = range(-(-entry.bytes // LEAF_BYTES))
        return [run * LEAF_BYTES for run in runs if not self._known[first + run]]

    def are_complete(self) -> bool:
        """Whether all runs were added."""
        return 0 not in self._known

    def hexdigest(self, header: bytes) -> str:
        """The hash, once all runs were added.

        Args:
            header: the file's bytes before the first tensor.
        """
        return xxh3_128_hexdigest(xxh3_128_digest(header) + self._digests)


def hash_file(path: Path) -> FileHashes:
    """Both hashes of a finished file, in one read.

    Raises:
        UserError: it cannot be read.
    """
    entries = list(read_header(path)[0].values())
    leaves, digest = LeafDigests(entries), hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        size = path.stat().st_size
        header = file.read(entries[0].offset if entries else size)
        digest.update(header)
        buffer = memoryview(bytearray(LEAF_BYTES))
        for entry in entries:
            for start in range(0, entry.bytes, LEAF_BYTES):
                part = buffer[: min(LEAF_BYTES, entry.bytes - start)]
                if file.readinto(part) != len(part):
                    raise UserError(f"{path}: ended while it was read; it must not change")
                digest.update(part)
                leaves.add(entry, start, part)
    return FileHashes(digest.hexdigest(), leaves.hexdigest(header))


def hashes_record(by_file: Mapping[str, FileHashes]) -> dict[str, dict[str, dict[str, str]]]:
    """What patch.json says of a patch's files, by their names."""
    return {
        _KEY: {
            "sha256": {name: hashes.sha256 for name, hashes in sorted(by_file.items())},
            FAST: {name: hashes.fast for name, hashes in sorted(by_file.items())},
        }
    }


def recorded_hashes(record: Mapping[str, Any]) -> dict[str, FileHashes]:
    """What a patch.json says of the files beside it; nothing in one of an older version.

    Args:
        record: all of it.
    """
    parts = record.get(_KEY)
    parts = parts if isinstance(parts, dict) else {}
    whole, fast = (parts.get(key) for key in ("sha256", FAST))
    if not isinstance(whole, dict) or not isinstance(fast, dict):
        return {}
    return {name: FileHashes(str(whole[name]), str(fast[name])) for name in whole if name in fast}
