"""A merge onto a filesystem that is too small ends in one line, and goes on once there is room."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from merge.verify import verify
from tests.test_merge_resume import build_command, make_inputs, merge_whole, output_hashes
from tests.train_helpers import ROOT


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs with room for two of the four output files."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=800k", "tmpfs", str(mount)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no mount command here")
    if done.returncode != 0:
        pytest.skip(f"mounting a small filesystem is not permitted here: {done.stderr.strip()}")
    yield mount
    subprocess.run(["umount", "--lazy", str(mount)], check=True)


def test_too_small_and_then_large_enough(tmp_path: Path, small_disk: Path) -> None:
    """One line, exit status 2, whole files stay as they are; the end is the same to the byte."""
    folder, out = make_inputs(tmp_path, tensors=4), small_disk / "out"
    merge_whole(folder, tmp_path / "whole")
    command = build_command(folder, out)
    assert command[0] == sys.executable
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "No space left" in errors[0] and str(out) in errors[0]
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    assert 1 <= len(kept) < 4 and not (out / "merge.json").exists()
    assert not list(out.glob("*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert output_hashes(out) == output_hashes(tmp_path / "whole")
    verify(out)
    assert json.loads((out / "merge.json").read_text())["totals"]["elements"] == 600_000
