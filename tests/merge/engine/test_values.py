"""Wrong values are found before any work, all at once, in the one read that hashes the inputs."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from merge.build import build
from merge.common.errors import UserError
from merge.common.files import read_json
from merge.engine import shard_output
from merge.engine.input_file import InputFile
from merge.engine.resources import MergeResources
from merge.settings import MergeSettings
from merge.verify import verify
from tests.merge.engine.test_exact import INCLUDE, SETTINGS, expected, make_case, run_build


def _poison(folder: Path, source: str, tensor: str, value: float) -> Path:
    for path in sorted(folder.glob(f"{source}*.safetensors")):
        tensors = load_file(path)
        if tensor in tensors:
            tensors[tensor].view(-1)[-1] = value
            save_file(tensors, path, {"format": "pt"})
            return path
    raise AssertionError(tensor)


@pytest.mark.parametrize("threads", [1, 3])
def test_every_wrong_value_at_once_and_nothing_written(tmp_path: Path, threads: int) -> None:
    """NaN, infinity and negative importances of several files stand in one message."""
    make_case(tmp_path, shards=2)
    wrong = [
        _poison(tmp_path, "backbone/model", "norm", float("nan")),  # not covered, and yet copied
        _poison(tmp_path, "backbone/model", "w1", float("inf")),
        _poison(tmp_path, "safety/delta", "w2", float("-inf")),
        _poison(tmp_path, "over_safety/importance", "w3", -1.0),
        _poison(tmp_path, "over_safety/importance", "w10", float("nan")),
    ]
    with pytest.raises(UserError) as caught:
        run_build(tmp_path, resources={"threads": threads}, **SETTINGS)
    message = str(caught.value)
    for path, name in zip(wrong, ("norm", "w1", "w2", "w3", "w10"), strict=True):
        assert str(path) in message and f"'{name}'" in message
    assert "negative importance" in message and "\n" not in message
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError):
        run_build(tmp_path, **SETTINGS)
    assert not list((tmp_path / "out").iterdir())


def test_negative_zero_is_zero(tmp_path: Path) -> None:
    """Importances of -0.0 rank as 0.0, ready or as gradients, in bf16 and fp32."""
    for number, (dtype, gradients) in enumerate(
        [(torch.bfloat16, False), (torch.float32, False), (torch.float32, True)]
    ):
        folder = tmp_path / str(number)
        case = make_case(folder, patch_dtype=dtype, gradients=gradients)
        for role in ("safety", "over_safety"):
            values = {n: torch.where(t == 0, -0.0, t) for n, t in case[2][role].items()}
            save_file(values, folder / role / "importance.safetensors")
        for scope in ("tensor", "model"):
            chosen = {**SETTINGS, "top_safety": 0.9, "top_over_safety": 0.8, "scope": scope}
            assert run_build(folder, f"out-{scope}", **chosen) == expected(
                case, gradients, **chosen
            )


def test_importance_that_no_method_ranks_is_not_read(tmp_path: Path) -> None:
    """Task arithmetic neither reads nor hashes importances, wrong as they are."""
    case = make_case(tmp_path, shards=2)
    _poison(tmp_path, "safety/importance", "w1", float("nan"))
    chosen = {**SETTINGS, "method": "task_arithmetic"}
    assert run_build(tmp_path, **chosen) == expected(case, True, **chosen)
    inputs = read_json(tmp_path / "out" / "merge.json")["inputs"]
    assert not any("importance" in name for name in inputs["safety"]["files"])
    assert any("delta" in name for name in inputs["safety"]["files"])
    verify(tmp_path / "out")


def _stop_before_merging(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Interrupt a merge when it has ranked, and so checked, the importances."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shard_output, "_write", stop)
        run_build(folder, **SETTINGS)


def test_resumed_merge_checks_only_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that a killed merge has checked are not read again; a copied one is, and must fit."""
    make_case(tmp_path, shards=2)
    _stop_before_merging(monkeypatch, tmp_path)
    read: set[Path] = set()
    check = InputFile.check

    def note(self: InputFile, *rest: Any) -> None:
        read.add(self.path)
        check(self, *rest)

    monkeypatch.setattr(InputFile, "check", note)
    # The same content, size and date in another inode.
    copied = next((tmp_path / "safety").glob("importance-*.safetensors"))
    shutil.copy2(copied, tmp_path / "copy")
    (tmp_path / "copy").replace(copied)
    _stop_before_merging(monkeypatch, tmp_path)
    assert read == {copied}
    # Other content under the same size and date.
    status = copied.stat()
    data = bytearray(copied.read_bytes())
    data[-3] ^= 1
    copied.rename(tmp_path / "old")  # so that its inode is not given again
    copied.write_bytes(data)
    os.utime(copied, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(UserError, match="has changed since the merge began"):
        run_build(tmp_path, **SETTINGS)


def test_input_that_changes_during_the_merge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merge whose input was touched while it ran gets no merge.json."""
    make_case(tmp_path)
    real = shard_output.write_shards

    def touch(*arguments: object) -> object:
        os.utime(tmp_path / "backbone" / "model.safetensors")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(shard_output, "write_shards", touch)
    with pytest.raises(UserError, match="changed during the merge"):
        run_build(tmp_path, **SETTINGS)
    assert not (tmp_path / "out" / "merge.json").exists()


def test_record_hashes_every_input(tmp_path: Path) -> None:
    """merge.json names each file of the three inputs, whatever the threads."""
    make_case(tmp_path, shards=3)
    for number, threads in enumerate((1, 4)):
        build(
            tmp_path / "backbone",
            tmp_path / "safety",
            tmp_path / "over_safety",
            tmp_path / f"out{number}",
            MergeSettings(include=INCLUDE),
            MergeResources(threads=threads),
        )
    records = [json.loads((tmp_path / f"out{n}" / "merge.json").read_text()) for n in (0, 1)]
    assert records[0]["inputs"] == records[1]["inputs"]
    for name in ("backbone", "safety", "over_safety"):
        files = {path.name for path in (tmp_path / name).iterdir()}
        assert set(records[0]["inputs"][name]["files"]) == files
