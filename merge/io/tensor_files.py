"""Folders of safetensors files: which tensors they hold and where, from their headers alone."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge.common.errors import UserError, collect
from merge.io.dtypes import ITEM_BYTES

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own limit


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies."""

    name: str
    dtype: str
    """The safetensors name, for example BF16."""
    shape: tuple[int, ...]
    file: Path
    offset: int
    """Offset of the first data byte from the start of the file."""
    bytes: int

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


class TensorIndex(Mapping[str, TensorEntry]):
    """The tensors of a folder by name, in the order of their files and positions."""

    def __init__(self, entries: dict[str, TensorEntry], metadata: dict[str, str]) -> None:
        self._entries = entries
        self.metadata = metadata
        """The free metadata of the first file's header."""
        self.files = tuple(dict.fromkeys(entry.file for entry in entries.values()))

    def __getitem__(self, name: str) -> TensorEntry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def read_index(directory: Path, stem: str) -> TensorIndex:
    """Index ``STEM.safetensors``, or the shards that ``STEM.safetensors.index.json`` names.

    Only headers are read, and all of a file's layout is checked against its length. Whatever
    reads the weights of a folder finds them here.

    Raises:
        UserError: no such files, both of them with other weights, pickle weights instead, weights
            that transformers would not load, or anything malformed.
    """
    single, listing = (directory / f"{stem}.safetensors", directory / f"{stem}{INDEX_SUFFIX}")
    if listing.is_file():
        if single.is_file() and set(_weight_map(listing).values()) != {single.name}:
            raise UserError(
                f"{directory}: holds {single.name} and {listing.name}, which names other files; "
                "transformers would load the first, other programs the second: delete what is old"
            )
        if stem == "model":
            _refuse_other_weights(directory, single, listing)
        return _read_shards(directory, listing)
    if single.is_file():
        if stem == "model":
            _refuse_other_weights(directory, single)
        entries, metadata = read_header(single)
        return TensorIndex(entries, metadata)
    if not directory.is_dir():
        raise UserError(f"{directory}: no such folder")
    if any(directory.glob("*.bin")) or any(directory.glob("*.pt*")):
        raise UserError(
            f"{directory}: holds pickled weights only, which can run code; convert them with "
            "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW)"
        )
    raise UserError(f"{directory}: neither {single.name} nor {listing.name} is there")


INDEX_SUFFIX = ".safetensors.index.json"


def _refuse_other_weights(directory: Path, *read: Path) -> None:
    """See that the configuration names no other file for transformers to load."""
    config = directory / "config.json"
    try:
        named = json.loads(config.read_bytes())["transformers_weights"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # none is named; and what loads the configuration says best what is wrong with it
    if named is not None and named not in [path.name for path in read]:
        raise UserError(
            f"{config}: transformers_weights names {named}, and {read[-1].name} is there too; "
            "delete the key or what is old"
        )


def _read_shards(directory: Path, listing: Path) -> TensorIndex:
    placement = _weight_map(listing)
    entries: dict[str, TensorEntry] = {}
    metadata: dict[str, str] = {}
    names = sorted(set(placement.values()))
    attempts = [
        lambda shard=shard: _read_shard(directory, listing, placement, shard) for shard in names
    ]
    for shard_entries, shard_metadata in collect(attempts):
        metadata = metadata or shard_metadata
        entries |= shard_entries
    missing = [name for name in placement if name not in entries]
    if missing:
        raise UserError(f"{listing}: names {_some(missing)}, which its shard does not hold")
    return TensorIndex(entries, metadata)


def _read_shard(
    directory: Path, listing: Path, placement: dict[str, str], shard: str
) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    if Path(shard).name != shard or shard in (".", ".."):
        raise UserError(f"{listing}: shard name '{shard}' leaves the folder; use plain names")
    entries, metadata = read_header(directory / shard)
    strangers = [name for name in entries if placement.get(name) != shard]
    if strangers:
        raise UserError(f"{directory / shard}: holds {_some(strangers)}, not so in {listing}")
    return entries, metadata


def _weight_map(listing: Path) -> dict[str, str]:
    value = parse_json(listing, _read_small(listing))
    placement = value.get("weight_map")
    if (
        not isinstance(placement, dict)
        or not placement
        or not all(isinstance(shard, str) and shard for shard in placement.values())
    ):
        raise UserError(f"{listing}: 'weight_map' must map tensor names to shard names")
    return placement


def read_header(file: Path) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """The tensors of one safetensors file, by position, and its free metadata.

    Raises:
        UserError: unreadable, truncated, or a layout that is not exactly the file.
    """
    try:
        with file.open("rb") as stream:
            file_bytes = os.fstat(stream.fileno()).st_size
            length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
            if not 2 <= length <= min(file_bytes - _LENGTH_BYTES, _MAX_HEADER_BYTES):
                raise UserError(f"{file}: truncated or no safetensors file; fetch it again")
            text = stream.read(length)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    header = parse_json(file, text)
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise UserError(f"{file}: the header's __metadata__ is no object")
    start = _LENGTH_BYTES + length
    entries = [_entry(file, name, value, start) for name, value in header.items()]
    entries.sort(key=lambda entry: (entry.offset, entry.bytes))
    end = start
    for entry in entries:
        if entry.offset != end:
            raise UserError(f"{file}: tensor '{entry.name}' overlaps another or leaves a gap")
        end += entry.bytes
    if end != file_bytes:
        raise UserError(
            f"{file}: has {file_bytes} bytes, its header says {end}; truncated? fetch it again"
        )
    return {entry.name: entry for entry in entries}, metadata


def _entry(file: Path, name: str, value: Any, start: int) -> TensorEntry:
    try:
        dtype, shape = value["dtype"], tuple(value["shape"])
        begin, end = value["data_offsets"]
        integers = all(type(part) is int and 0 <= part < 1 << 63 for part in (*shape, begin, end))
        if not integers or end - begin != math.prod(shape) * ITEM_BYTES[dtype]:
            raise ValueError
    except (TypeError, KeyError, ValueError):
        raise UserError(f"{file}: the header's entry of tensor '{name}' is malformed") from None
    return TensorEntry(name, dtype, shape, file, start + begin, end - begin)


def parse_json(file: Path, text: bytes) -> dict[str, Any]:
    """A JSON object without doubled keys.

    Raises:
        UserError: it is something else, naming ``file``.
    """
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not valid JSON ({error}); fetch or write it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{file}: must hold a JSON object, not {type(value).__name__}")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands there twice")
    return value


def _read_small(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None


def _some(names: list[str], limit: int = 3) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
