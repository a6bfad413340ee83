"""The build command on a real model folder: loading, the record, resumption, and its errors."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from merge.build import build
from merge.common.errors import UserError
from merge.engine.coverage import linear_weights
from merge.engine.resources import MergeResources
from merge.io.fingerprint import backbone_fingerprint
from merge.settings import MergeSettings
from tests.support.merge_models import write_patch
from tests.support.train_helpers import ROOT, make_backbone


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sharded bf16 Llama with tokenizer, and two random patches of it."""
    folder = tmp_path_factory.mktemp("llama")
    whole = AutoModelForCausalLM.from_pretrained(make_backbone(folder / "fp32"))
    whole.bfloat16().save_pretrained(folder / "backbone", max_shard_size="20KB")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (folder / "fp32" / name).exists():
            shutil.copy(folder / "fp32" / name, folder / "backbone")
    weights = whole.state_dict()
    linear = linear_weights({name: value.shape for name, value in weights.items()})
    covered = {name: weights[name] for name in linear}
    assert len(covered) == 14
    for role in ("safety", "over_safety"):
        delta = {name: torch.randn(tensor.shape) / 100 for name, tensor in covered.items()}
        gradient = {name: torch.rand(tensor.shape) for name, tensor in covered.items()}
        print_of = backbone_fingerprint(folder / "backbone")
        record: dict[str, Any] = {"score": "gradient", "backbone_fingerprint": print_of}
        write_patch(folder / role, role, delta, gradient, **record)
    return folder


def _build(folder: Path, out: Path, **settings: object) -> None:
    paths = {name: folder / name for name in ("backbone", "safety", "over_safety")}
    build(
        paths["backbone"],
        paths["safety"],
        paths["over_safety"],
        out=out,
        settings=MergeSettings.model_validate(settings),
        resources=MergeResources(),
    )


def test_loads_and_records(llama: Path, tmp_path: Path) -> None:
    """from_pretrained loads it, other tensors are untouched, merge.json tells the truth."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "merge", "build", "--out", str(out), "--alpha", "0.5"]
    command += ["--backbone", str(llama / "backbone"), "--safety", str(llama / "safety")]
    command += ["--over-safety", str(llama / "over_safety"), "--top-safety", "0.2"]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    merged = AutoModelForCausalLM.from_pretrained(out).state_dict()
    original = AutoModelForCausalLM.from_pretrained(llama / "backbone").state_dict()
    assert AutoTokenizer.from_pretrained(out).chat_template
    record = json.loads((out / "merge.json").read_text())
    assert record["settings"]["alpha"] == 0.5 and record["settings"]["top_safety"] == 0.2
    for name, tensor in merged.items():
        changed = int((tensor != original[name]).sum())
        report = record["tensors"].get(name)
        assert changed == (report["changed"] if report else 0)
        if report:
            assert report["top_S"] == int(0.2 * tensor.numel()) and changed > 0
    outputs = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()}
    assert outputs.pop("merge.json") and outputs == record["outputs"]
    for item in record["inputs"].values():
        for name, digest in item["files"].items():
            assert hashlib.sha256((Path(item["path"]) / name).read_bytes()).hexdigest() == digest
    umask_mode = 0o666 & ~int(subprocess.check_output(["sh", "-c", "umask"]), 8)
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {umask_mode}


def test_rerun_continues_or_refuses(llama: Path, tmp_path: Path) -> None:
    """Done is done; an interrupted merge resumes to the same bytes; other settings are refused."""
    out, other = tmp_path / "out", tmp_path / "other"
    _build(llama, out)
    first = {path.name: path.read_bytes() for path in out.glob("*.safetensors")}
    stamps = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    _build(llama, out)
    assert stamps == {path: path.stat().st_mtime_ns for path in out.iterdir()}
    with pytest.raises(UserError, match="other inputs or settings"):
        _build(llama, out, alpha=2.0)
    other.mkdir()
    (other / "model-00007-of-00007.safetensors").write_bytes(b"of another run")
    with pytest.raises(UserError, match="model-00007-of-00007"):
        _build(llama, other)
    assert {path.name: path.read_bytes() for path in out.glob("*.safetensors")} == first


def _rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _poison(folder: Path, role: str, stem: str, value: float) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / role / f"{stem}.safetensors"
    tensors = load_file(path)
    tensors["model.layers.0.mlp.up_proj.weight"][1, 2] = value
    save_file(tensors, path)


def _pickle_only(folder: Path) -> None:
    for path in (folder / "backbone").glob("model*"):
        path.unlink()
    (folder / "backbone" / "pytorch_model.bin").write_bytes(b"pickle")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: _rewrite(f / "safety/patch.json", role="over_safety"), "role over_safety"),
        (lambda f: _rewrite(f / "safety/patch.json", format=2), "'format' must be 1"),
        (
            lambda f: _rewrite(f / "over_safety/patch.json", backbone_fingerprint="0" * 64),
            "another backbone",
        ),
        (lambda f: (f / "safety/patch.json").unlink(), "no finished patch"),
        (lambda f: _poison(f, "safety", "delta", float("nan")), "up_proj.*NaN or infinity"),
        (lambda f: _poison(f, "over_safety", "importance", -1.0), "negative importance"),
        (
            lambda f: _poison(f, "over_safety", "importance", float("inf")),
            "over_safety/imp.*NaN or infinity; delete that patch and train it again with a lower",
        ),
        (_pickle_only, "pickled weights"),
        (
            lambda f: (f / "safety/delta.safetensors").write_bytes(
                (f / "safety/delta.safetensors").read_bytes()[:-5]
            ),
            "truncated",
        ),
        (lambda f: shutil.rmtree(f / "backbone"), "no such folder"),
    ],
)
def test_errors_name_the_input(
    llama: Path, tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    """Each wrong input is refused by name, and no output file appears under its name."""
    folder = tmp_path / "case"
    shutil.copytree(llama, folder)
    change(folder)
    with pytest.raises(UserError, match=message):
        _build(folder, tmp_path / "out")
    assert not list(tmp_path.glob("out/merge.json"))


def test_all_problems_at_once(llama: Path, tmp_path: Path) -> None:
    """Missing, extra and misshapen tensors and a wrong role stand in one line."""
    folder = tmp_path / "case"
    shutil.copytree(llama, folder)
    bad = {"model.layers.0.mlp.up_proj.weight": torch.ones(3), "stranger": torch.ones(2)}
    write_patch(folder / "safety", "over_safety", bad, bad)
    with pytest.raises(UserError) as caught:
        _build(folder, tmp_path / "out")
    for part in ("role over_safety", "does not hold", "stranger", "another shape"):
        assert part in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_damaged_files_of_one_patch_at_once(llama: Path, tmp_path: Path) -> None:
    """A truncated delta, a truncated importance and two truncated shards stand in one line."""
    folder = tmp_path / "case"
    shutil.copytree(llama, folder)
    damaged = [folder / "safety" / f"{stem}.safetensors" for stem in ("delta", "importance")]
    damaged += sorted((folder / "backbone").glob("model-*.safetensors"))[:2]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError) as caught:
        _build(folder, tmp_path / "out")
    assert all(str(path) in str(caught.value) for path in damaged)


@pytest.mark.parametrize("flags", [["--retention", "1.2"], ["--alpha", "nan"], ["--threads", "0"]])
def test_wrong_settings_exit_2(llama: Path, tmp_path: Path, flags: list[str]) -> None:
    """A rate outside [0, 1] is one line without a traceback, exit status 2."""
    command = [sys.executable, "-m", "merge", "build", "--out", str(tmp_path / "out"), *flags]
    for flag, name in (("--backbone", "backbone"), ("--safety", "safety")):
        command += [flag, str(llama / name)]
    command += ["--over-safety", str(llama / "over_safety")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: command line: key")
    assert done.stderr.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "private"),
    [
        ({"method": "over_safety"}, True),
        ({"alpha": 0}, True),
        ({"method": "by_set", "alpha": 0}, True),
        ({"method": "by_set", "alpha": 0, "alpha_rest": 0.1}, False),
        ({"alpha": 0, "scales": [{"pattern": "*.0.*", "alpha": 0.1}]}, False),
        ({"method": "safety"}, False),
        ({}, False),
    ],
)
def test_a_model_without_the_safety_patch_is_private(
    llama: Path, tmp_path: Path, settings: dict[str, Any], private: bool
) -> None:
    """It is jailbroken, whatever it is called."""
    _build(llama, tmp_path / "out", **settings)
    assert ((tmp_path / "out").stat().st_mode & 0o777 == 0o700) is private
