"""requirements-merge.txt: all that the merger needs, without PyTorch (issue 16)."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from merge.build import build
from merge.engine.resources import MergeResources
from merge.settings import MergeSettings
from tests.support.merge_models import write_patch, write_tensors

ROOT = Path(__file__).parents[2]
SHAPES = {
    "model.layers.0.mlp.down_proj.weight": (24, 40),
    "model.layers.1.self_attn.v_proj.weight": (16, 24),
}


def requirements(file: str) -> list[Requirement]:
    """The packages that a file names for this Python, without those of files it includes."""
    lines = (ROOT / file).read_text().splitlines()
    named = [Requirement(line) for line in lines if line and not line.startswith(("#", "-r "))]
    return [each for each in named if each.marker is None or each.marker.evaluate()]


def test_what_is_installed_is_what_is_pinned() -> None:
    """A pin that moved without an installation would let the tests pass with other versions."""
    pins = {each.name: str(each.specifier) for each in requirements("requirements-merge.txt")}
    assert pins == {name: f"=={importlib.metadata.version(name)}" for name in pins}
    assert {"numpy", "numba"} <= pins.keys()


def test_each_pin_stands_once() -> None:
    """The whole project's file includes the merger's, and names no package a second time."""
    assert "-r requirements-merge.txt" in (ROOT / "requirements.txt").read_text().splitlines()
    files = ("requirements.txt", "requirements-merge.txt")
    names = [each.name.lower() for file in files for each in requirements(file)]
    assert len(names) == len(set(names))


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """A small backbone and two patches, with gradients as importance."""
    draw = torch.Generator().manual_seed(11)

    def normal(scale: float) -> dict[str, torch.Tensor]:
        return {name: scale * torch.randn(s, generator=draw) for name, s in SHAPES.items()}

    rest = {"model.norm.weight": torch.ones(24)}
    write_tensors(tmp_path / "backbone", "model", normal(1.0) | rest)
    for role in ("safety", "over_safety"):
        gradients = {name: tensor.abs() for name, tensor in normal(1.0).items()}
        write_patch(tmp_path / role, role, normal(0.01), gradients, score="gradient")
    return {name: tmp_path / name for name in ("backbone", "safety", "over_safety")}


@pytest.fixture
def login_node(tmp_path: Path) -> Iterator[Path]:
    """The Python of a new environment that holds what requirements-merge.txt names."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]
    subprocess.run([venv / "bin/python", *install, ROOT / "requirements-merge.txt"], check=True)
    yield venv / "bin/python"
    shutil.rmtree(venv)  # 300 MB, which pytest would keep for three runs


@pytest.mark.slow
def test_the_merger_runs_with_nothing_else(
    inputs: dict[str, Path], login_node: Path, tmp_path: Path
) -> None:
    """Compiled there, all commands but that of pictures give the bytes that are given here."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment["NUMBA_CACHE_DIR"] = str(tmp_path / "compiled")

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [login_node, *words]
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
        )

    missing = run("-c", "import torch")
    assert missing.returncode == 1 and "No module named 'torch'" in missing.stderr
    flags = [f"--{name.replace('_', '-')}={path}" for name, path in inputs.items()]
    out, delta = tmp_path / "out", tmp_path / "small.safepatch"
    refused = run("-m", "merge", "build", *flags, "--out", out, "--tensorboard", tmp_path / "tb")
    assert refused.returncode == 2 and not out.exists()
    assert refused.stderr == (
        "error: --tensorboard: needs tensorboard, not installed here; pip install tensorboard, "
        "or leave the option out\n"
    )
    refused = run("-m", "merge", "inspect", *flags, "--out", tmp_path / "page")
    assert refused.returncode == 2 and not (tmp_path / "page").exists()
    assert refused.stderr == (
        "error: merge inspect: needs matplotlib and jinja2, not installed here; "
        "pip install matplotlib jinja2\n"
    )
    for words in (
        ("plan", *flags, "--out", out),
        ("build", *flags, "--out", out, "--delta-file", delta),
        ("verify", out),
        ("apply", "--model", out, "--delta", delta, "--out", tmp_path / "back"),
    ):
        done = run("-m", "merge", *words)
        assert done.returncode == 0, done.stderr
    backbone, safety, over_safety = inputs.values()
    build(backbone, safety, over_safety, tmp_path / "here", MergeSettings(), MergeResources())
    merged, here, back, backbone = (
        (tmp_path / folder / "model.safetensors").read_bytes()
        for folder in ("out", "here", "back", "backbone")
    )
    assert merged == here and back == backbone and merged != backbone
    refused = run("-m", "merge", "picture", out)
    assert refused.returncode == 2 and refused.stderr == (
        "error: merge picture: needs matplotlib, not installed here; pip install matplotlib\n"
    )
