"""What a merge reads, by the kernel's count, and by which hashes it knows its inputs (issue 18)."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from merge.build import build
from merge.common.errors import UserError
from merge.common.files import read_json
from merge.engine.resources import MergeResources
from merge.io.patch_directory import PatchWriter
from merge.io.patch_hashes import FAST
from merge.settings import MergeSettings, ScopeName
from merge.verify import verify
from tests.support.merge_models import write_patch, write_tensors
from tests.support.train_helpers import ROOT

# All bytes of this process's read calls, of the page cache or not.
_WRAPPER = (
    "import runpy\n"
    "try:\n    runpy.run_module('merge', run_name='__main__')\n"
    "finally:\n"
    "    print(open('/proc/self/io').read())"
)


def _read_bytes(folder: Path, out: str, *flags: str) -> int:
    command = [sys.executable, "-c", _WRAPPER, "build", "--include", "*", *flags]
    for name in ("backbone", "safety", "over_safety"):
        command += [f"--{name.replace('_', '-')}", str(folder / name)]
    command += ["--out", str(folder / out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    match = re.search(r"rchar: (\d+)", done.stdout)
    assert match
    return int(match[1])


def _write(folder: Path, size: int, dtype: torch.dtype, shards: int, exported: bool) -> int:
    """Five sources of one size each; bytes of all their tensors."""
    generator = torch.Generator().manual_seed(size)
    names = [f"model.layers.{number}.mlp.up_proj.weight" for number in range(6)]
    names += ["model.embed_tokens.weight"]

    def normal() -> dict[str, torch.Tensor]:
        return {name: torch.randn(size, generator=generator).to(dtype) for name in names}

    write_tensors(folder / "backbone", "model", normal(), shards)
    for role in ("safety", "over_safety"):
        delta, importance = normal(), {name: t.abs() for name, t in normal().items()}
        if not exported:
            write_patch(folder / role, role, delta, importance, shards)
            continue
        with PatchWriter(folder / role, role, {}) as writer:
            # Not the backbone's order: a fast hash wants none.
            for name in reversed(names):
                writer.add_delta(name, delta[name].float().numpy())
                writer.add_importance(name, importance[name].float().numpy())
    return 5 * len(names) * size * torch.finfo(dtype).bits // 8


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("dtype", "shards", "exported"),
    [(torch.bfloat16, 1, False), (torch.bfloat16, 3, False), (torch.float32, 1, True)],
)
def test_each_byte_is_read_once_and_importances_twice(
    tmp_path: Path, dtype: torch.dtype, shards: int, exported: bool
) -> None:
    """Seven reads of five files of one size, imports apart; three without importances."""
    # Mostly more than what a merge may keep of the importances.
    size = _write(tmp_path / "large", 3_000_000 if dtype is torch.float32 else 6_000_000, dtype,
                  shards, exported)  # fmt: skip
    _write(tmp_path / "tiny", 2, dtype, shards, exported)
    for number, threads in enumerate((1, 3)):
        flags = ("--threads", str(threads))
        _read_bytes(tmp_path / "tiny", f"first{number}", *flags)
        imports = _read_bytes(tmp_path / "tiny", f"out{number}", *flags)
        read = _read_bytes(tmp_path / "large", f"out{number}", *flags) - imports
        assert 1.2 * size < read <= 1.4 * size
        flags += ("--method", "task_arithmetic")
        read = _read_bytes(tmp_path / "large", f"sum{number}", *flags) - imports
        assert 0.59 * size < read < 0.605 * size
        verify(tmp_path / "large" / f"out{number}")


def _exported(folder: Path, backwards: bool = False) -> Path:
    """A backbone, and two patches as training exports them, of several files.

    Args:
        backwards: whether their tensors are in the other order than the backbone's.
    """
    rng = np.random.default_rng(3)
    shapes: dict[str, tuple[int, ...]] = {
        f"model.layers.{n}.mlp.up_proj.weight": (700, 300) for n in range(3)
    }
    shapes["model.norm.weight"] = (5,)

    def normal() -> dict[str, np.ndarray]:
        return {n: rng.standard_normal(s, np.float32) for n, s in shapes.items()}

    write_tensors(folder / "backbone", "model", {n: torch.tensor(v) for n, v in normal().items()})
    for role in ("safety", "over_safety"):
        with PatchWriter(folder / role, role, {}, shard_bytes=1_000_000) as writer:
            values_of = normal()
            for name in reversed(values_of) if backwards else values_of:
                values = values_of[name]
                writer.add_delta(name, values / 50)
                writer.add_importance(name, abs(values))
    return folder


def _build(folder: Path, out: str = "out", **settings: Any) -> dict[str, Any]:
    build(
        folder / "backbone",
        folder / "safety",
        folder / "over_safety",
        out=folder / out,
        settings=MergeSettings(**settings),
        resources=MergeResources(threads=3),
    )
    return read_json(folder / out / "merge.json")


@pytest.mark.parametrize("backwards", [False, True])
def test_an_exported_patch_has_hashes_that_the_merge_records(
    tmp_path: Path, backwards: bool
) -> None:
    """patch.json has both hashes of each file; merge.json says by which one it was checked."""
    _exported(tmp_path, backwards)
    record = _build(tmp_path)
    for role in ("safety", "over_safety"):
        files = {path.name: path for path in (tmp_path / role).glob("*.safetensors")}
        assert len(files) > 2
        hashes = read_json(tmp_path / role / "patch.json")["hashes"]
        whole = {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in files.items()}
        assert hashes["sha256"] == whole and hashes[FAST].keys() == files.keys()
        entry = record["inputs"][role]
        assert {name: entry["files"][name] for name in files} == whole
        assert entry[FAST] == hashes[FAST]
    assert FAST not in record["inputs"]["backbone"] and FAST in record["hashes"]["inputs"]
    verify(tmp_path / "out")
    # Without the hashes it is the same merge, by SHA-256.
    for role in ("safety", "over_safety"):
        path = tmp_path / role / "patch.json"
        path.write_text(json.dumps({"format": 1, "role": role}))
    older = _build(tmp_path, "older")
    assert older["outputs"] == record["outputs"] and FAST not in older["inputs"]["safety"]
    assert older["tensors"] == record["tensors"]
    for role in ("safety", "over_safety"):
        same = {n: h for n, h in record["inputs"][role]["files"].items() if n != "patch.json"}
        assert same.items() <= older["inputs"][role]["files"].items()


@pytest.mark.parametrize("stem", ["delta", "importance"])
@pytest.mark.parametrize("place", [-1, 300, 12])
def test_a_patch_file_that_training_did_not_write(tmp_path: Path, stem: str, place: int) -> None:
    """A bit of a value, or a byte of the header's padding, is enough; nothing is left."""
    _exported(tmp_path)
    file = sorted((tmp_path / "over_safety").glob(f"{stem}-*.safetensors"))[-1]
    data = bytearray(file.read_bytes())
    # A place in the header is one of its trailing spaces.
    at = place if place < 0 else int.from_bytes(data[:8], "little") - place
    data[at] ^= 1 if place < 0 else ord(" ") ^ ord("\n")
    file.write_bytes(data)
    load_file(file)
    with pytest.raises(UserError, match=rf"{file.name}: is not the file .*patch.json"):
        _build(tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_a_refused_merge_leaves_no_file_though_weights_were_written(
    tmp_path: Path, scope: ScopeName
) -> None:
    """Infinity in the last value of the last shard's delta; after the first shards are sealed."""
    _exported(tmp_path)
    for role in ("safety", "over_safety"):
        (tmp_path / role / "patch.json").write_text(json.dumps({"format": 1, "role": role}))
    file = sorted((tmp_path / "safety").glob("delta-*.safetensors"))[-1]
    tensors = load_file(file)
    name = max(tensors)
    assert name == "model.norm.weight"
    data = bytearray(file.read_bytes())
    data[-4:] = np.float32("inf").tobytes()
    file.write_bytes(data)
    out = tmp_path / "out"
    with pytest.raises(UserError, match=rf"{file.name}.*'{name}' holds NaN or infinity"):
        build(
            tmp_path / "backbone",
            tmp_path / "safety",
            tmp_path / "over_safety",
            out=out,
            settings=MergeSettings(scope=scope),
            resources=MergeResources(max_shard_size=900_000),
        )
    assert not out.exists()
