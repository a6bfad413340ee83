"""A patch directory is whole, or nothing of it is there."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge.common.errors import UserError
from merge.io import patch_directory, tensor_stream
from merge.io.patch_directory import PatchWriter, read_patch


def _write(folder: Path) -> None:
    """Two files of delta with their index, two of importance with theirs."""
    with PatchWriter(folder, "safety", {}, shard_bytes=100) as writer:
        for name in ("a", "b"):
            writer.add_delta(name, np.ones((4, 5), np.float32))
            writer.add_importance(name, np.ones((4, 5), np.float32))


def test_what_a_killed_process_left_goes_with_the_next_writing(tmp_path: Path) -> None:
    """Its names hold its process's number, which no later process has."""
    left = [tmp_path / ".delta-0.4194305.tmp", tmp_path / ".importance-3.4194305.tmp"]
    for path in left:
        path.write_bytes(bytes(10))
    _write(tmp_path)
    assert set(read_patch(tmp_path).delta) == {"a", "b"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("last", ["importance.safetensors.index.json", "patch.json"])
@pytest.mark.parametrize("stands", [False, True])
def test_nothing_is_left_where_the_last_file_fails(
    last: str, stands: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files before it have their final names by then.

    Args:
        stands: it fails when it stands already, as where the folder cannot be made durable.
    """
    write = tensor_stream.atomic_write_json

    def fail(path: Path, *rest: Any) -> None:
        if path.name != last or stands:
            write(path, *rest)
        if path.name == last:
            raise UserError("the disk is full")

    for module in (tensor_stream, patch_directory):
        monkeypatch.setattr(module, "atomic_write_json", fail)
    with pytest.raises(UserError, match="the disk is full"):
        _write(tmp_path)
    assert list(tmp_path.iterdir()) == []
