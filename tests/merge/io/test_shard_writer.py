"""An output file that is hashed while several threads fill it in any order."""

import hashlib
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from merge.io.layout import OutputShard
from merge.io.shard_writer import ShardWriter, publish

HEADER = b"header--"


def make_shard(sizes: dict[str, int]) -> OutputShard:
    offsets, position = {}, len(HEADER)
    for name, size in sizes.items():
        offsets[name] = position
        position += size
    return OutputShard("model.safetensors", HEADER, offsets, position)


def test_the_hash_is_that_of_the_file_in_any_order_of_writing(tmp_path: Path) -> None:
    """Large enough that pages are given back on the way, with an empty tensor among them."""
    sizes = {"a": 20_000_001, "empty": 0, "b": 5_000_000, "c": 3}
    shard, rng = make_shard(sizes), np.random.default_rng(0)
    data = {name: rng.integers(0, 256, size, np.uint8) for name, size in sizes.items()}
    pieces = [
        (name, start)
        for name, size in sizes.items()
        for start in (range(0, size, 300_000) if size else [0])
    ]
    random.Random(1).shuffle(pieces)
    with closing(ShardWriter(tmp_path, shard)) as writer, ThreadPoolExecutor(4) as pool:
        futures = [
            pool.submit(writer.write, name, data[name][start : start + 300_000], start)
            for name, start in pieces
        ]
        for future in futures:
            future.result()
        digest = writer.seal()
    assert not (tmp_path / shard.name).exists()
    publish(tmp_path, [shard.name])
    content = (tmp_path / shard.name).read_bytes()
    assert content == HEADER + b"".join(values.tobytes() for values in data.values())
    assert digest == hashlib.sha256(content).hexdigest()


def test_a_file_with_a_hole_gets_no_name(tmp_path: Path) -> None:
    shard = make_shard({"a": 10, "b": 10})
    with (
        pytest.raises(ValueError, match="not written"),
        closing(ShardWriter(tmp_path, shard)) as writer,
    ):
        writer.write("b", np.zeros(10, np.uint8))
        writer.seal()
    publish(tmp_path, [shard.name])
    assert not list(tmp_path.iterdir())
