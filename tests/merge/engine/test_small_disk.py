"""A merge onto a filesystem that is too small ends in one line, and goes on once there is room."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from merge.common.errors import UserError
from merge.io.patch_directory import PatchWriter
from merge.verify import verify
from tests.merge.engine.test_resume import build_command, make_inputs, merge_whole, output_hashes
from tests.support.train_helpers import ROOT


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


def test_a_patch_that_outgrows_the_disk_keeps_its_error(small_disk: Path) -> None:
    """What is still in a buffer fails a second time when the file is closed, unless that is met."""
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    with (
        pytest.raises(UserError, match=r"delta files cannot be written .No space left"),
        PatchWriter(small_disk / "patch", "safety", {}) as writer,
    ):
        for number in range(2 * free // 400):
            writer.add_delta(f"w{number}", np.zeros(100, np.float32))
    assert list((small_disk / "patch").iterdir()) == []


@pytest.mark.parametrize("flag", ["--delta-file", "--tensorboard"])
def test_no_room_beside_the_merge(tmp_path: Path, small_disk: Path, flag: str) -> None:
    folder, target = make_inputs(tmp_path, tensors=1), small_disk / "beside"
    filler = small_disk / "filler"
    with pytest.raises(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    command = [*build_command(folder, tmp_path / "out"), flag, str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    errors = [line for line in done.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1 and "No space left" in errors[0] and str(target) in errors[0]
    filler.unlink()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    verify(tmp_path / "out")
