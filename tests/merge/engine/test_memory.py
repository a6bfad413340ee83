"""Peak memory keeps the limit on top of the program itself, and does not grow with the model."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from merge.engine.resources import MergeResources
from merge.plan import plan
from merge.settings import MergeSettings
from tests.support.merge_models import write_patch, write_tensors
from tests.support.train_helpers import ROOT

# The kernel's own high-water mark of the new program; rusage's would start from the parent's.
_WRAPPER = (
    "import runpy\n"
    "try:\n    runpy.run_module('merge', run_name='__main__')\n"
    "finally:\n"
    "    lines = open('/proc/self/status').read().splitlines()\n"
    "    print(next(line.split()[1] for line in lines if line.startswith('VmHWM')))"
)


def _write(folder: Path, tensors: int, shape: tuple[int, int]) -> Path:
    """Gradients and deltas of fp32 to a bf16 backbone: the most that a value can take."""
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(shape, generator=generator)
    names = [f"w{number}" for number in range(tensors)]
    for role in ("safety", "over_safety"):
        delta, gradient = values / 50, values.abs()
        write_patch(
            folder / role,
            role,
            {n: delta.clone() for n in names},
            {n: gradient.clone() for n in names},
            score="gradient",
        )
    write_tensors(folder / "backbone", "model", {n: values.bfloat16() for n in names})
    return folder


def _paths(folder: Path) -> dict[str, Path]:
    return {name: folder / name for name in ("backbone", "safety", "over_safety")}


def _peak(folder: Path, out: str, *flags: str) -> float:
    """MiB at the peak of a merge in a process of its own."""
    command = [sys.executable, "-c", _WRAPPER, "build", "--include", "w*", *flags]
    for name, path in _paths(folder).items():
        command += [f"--{name.replace('_', '-')}", str(path)]
    command += ["--out", str(folder / out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_peak_memory(tmp_path: Path) -> None:
    """A limit holds for any number of threads; four times the model takes as much."""
    tiny = _write(tmp_path / "tiny", 1, (2, 2))
    # Enough tensors that all threads have their slices in hand at once.
    small = _write(tmp_path / "small", 6, (1024, 1024))
    large = _write(tmp_path / "large", 24, (1024, 1024))
    program = _peak(tiny, "first")  # compiles, where nobody has yet
    program = _peak(tiny, "out")
    for number, (limit, threads) in enumerate([(16, 1), (16, 8), (64, 4)]):
        flags = ("--memory-limit", f"{limit}MiB", "--threads", str(threads))
        assert _peak(large, f"out{number}", *flags) <= program + limit
    default = _peak(large, "out")
    assert default <= 350
    assert default <= 1.1 * _peak(small, "out")
    planned = plan(**_paths(large), out=large / "new", settings=MergeSettings(include=("w*",)),
                   resources=MergeResources()).peak_memory_bytes / 2**20  # fmt: skip
    assert default <= planned
