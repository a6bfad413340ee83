"""Kill -9 at any moment, a second merger, a full disk: nothing is lost and nothing is mixed."""

import fcntl
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from merge.build import build
from merge.common.errors import UserError
from merge.engine.checks import check_inputs
from merge.engine.input_check import CheckedFile
from merge.engine.journal import Journal, MergeIdentity, merge_identity
from merge.engine.resources import MergeResources
from merge.io.layout import plan_shards
from merge.settings import MergeSettings
from merge.verify import verify
from tests.support.merge_models import write_patch, write_tensors
from tests.support.train_helpers import ROOT


def build_command(folder: Path, out: Path) -> list[str]:
    command = [sys.executable, "-m", "merge", "build", "--out", str(out), "--include", "w*"]
    command += ["--backbone", str(folder / "backbone"), "--safety", str(folder / "safety")]
    return [*command, "--over-safety", str(folder / "over_safety"), "--max-shard-size", "400KB"]


def make_inputs(folder: Path, tensors: int) -> Path:
    generator = torch.Generator().manual_seed(4)
    names = [f"w{number}" for number in range(tensors)]
    for role in ("safety", "over_safety"):
        delta = {name: torch.randn(300, 500, generator=generator) / 40 for name in names}
        gradient = {name: torch.rand(300, 500, generator=generator) for name in names}
        write_patch(folder / role, role, delta, gradient, score="gradient")
    backbone = {name: torch.randn(300, 500, generator=generator).bfloat16() for name in names}
    write_tensors(folder / "backbone", "model", backbone)
    return folder


def merge_whole(folder: Path, out: Path) -> None:
    build(
        folder / "backbone",
        folder / "safety",
        folder / "over_safety",
        out,
        MergeSettings(include=("w*",)),
        MergeResources(max_shard_size=400_000),
    )


def output_hashes(out: Path) -> dict[str, str]:
    return json.loads((out / "merge.json").read_text())["outputs"]


@pytest.mark.slow
def test_killed_merges_resume_to_the_same_hashes(tmp_path: Path) -> None:
    """Thirty kills at random moments, over several merges, each brought to its end."""
    folder = make_inputs(tmp_path, tensors=40)
    merge_whole(folder, tmp_path / "whole")
    wanted = output_hashes(tmp_path / "whole")
    rng, kills, merges = random.Random(0), 0, 0
    while kills < 30:
        merges += 1
        out = tmp_path / f"out{merges}"
        while kills < 30 and not (out / "merge.json").exists():
            process = subprocess.Popen(
                build_command(folder, out),
                cwd=ROOT,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            # Most of the time is the start: wait for the first file, then for some moment after.
            while process.poll() is None and not list(out.glob("*")):
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.5))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
            process.wait()
        merge_whole(folder, out)
        assert output_hashes(out) == wanted
        verify(out)
        assert not list(out.glob(".*"))


def test_a_merge_of_an_older_version_is_known(tmp_path: Path) -> None:
    """Its identity was of every setting; of a version without a setting it is the same as now."""
    folder, out = make_inputs(tmp_path, tensors=1), tmp_path / "out"
    merge_whole(folder, out)
    record = json.loads((out / "merge.json").read_text())
    settings = MergeSettings(include=("w*",))
    patches = folder / "safety", folder / "over_safety"
    inputs = check_inputs(folder / "backbone", *patches, settings)
    identity = merge_identity(inputs, settings, plan_shards(inputs.backbone, 400_000))
    assert record["identity"] == identity.now != identity.earlier
    (out / "merge.json").write_text(json.dumps({**record, "identity": identity.earlier}))
    merge_whole(folder, out)
    assert json.loads((out / "merge.json").read_text())["identity"] == identity.earlier
    (out / "merge.json").write_text(json.dumps({**record, "identity": "other"}))
    with pytest.raises(UserError, match="other inputs or settings"):
        merge_whole(folder, out)


def test_finished_files_are_not_written_again(tmp_path: Path) -> None:
    """A resumed merge keeps whole files, redoes a damaged one, and drops half-written ones."""
    folder, out = make_inputs(tmp_path, tensors=4), tmp_path / "out"
    merge_whole(folder, out)
    wanted = output_hashes(out)
    record = json.loads((out / "merge.json").read_text())
    files = sorted(path for path in out.glob("*.safetensors"))
    lines = [{"identity": record["identity"]}]
    lines += [{"file": path.name, "sha256": wanted[path.name], "tensors": {}} for path in files[:2]]
    journal = "\n".join(json.dumps(line) for line in lines) + '\n{"file": "half'
    (out / ".merge-journal.jsonl").write_text(journal)
    (out / "merge.json").unlink()
    files[1].write_bytes(b"damaged")
    (out / ".model-00003.tmp").write_bytes(b"half")
    stamp = files[0].stat().st_mtime_ns
    merge_whole(folder, out)
    assert files[0].stat().st_mtime_ns == stamp
    shards = {name: digest for name, digest in wanted.items() if name != "README.md"}
    assert {name: output_hashes(out)[name] for name in shards} == shards
    assert not list(out.glob(".*"))


def test_what_follows_half_a_line_of_the_journal_is_kept(tmp_path: Path) -> None:
    """A second kill must not cost what was checked since the first."""
    files = [tmp_path / name for name in ("first", "second")]
    for number, file in enumerate(files):
        journal = Journal(tmp_path, MergeIdentity("now", "earlier"))
        assert list(journal.resume()[1]) == files[:number]
        journal.add_input(file, CheckedFile("0" * 64, (1, 2, 3)))
        with next(tmp_path.glob(".*.jsonl")).open("a") as lines:
            lines.write('{"input": "thi')
    assert list(Journal(tmp_path, MergeIdentity("now", "earlier")).resume()[1]) == files


def test_second_merger_is_refused(tmp_path: Path) -> None:
    """While one merge holds the output, another one is told so and touches nothing."""
    folder, out = make_inputs(tmp_path, tensors=1), tmp_path / "out"
    out.mkdir()
    descriptor = os.open(out / ".merge-lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="another merge is writing"):
        merge_whole(folder, out)
    os.close(descriptor)
    merge_whole(folder, out)


def test_full_disk_ends_in_one_line(tmp_path: Path) -> None:
    """No room for a file: one clear line, exit status 2; with room again, it continues."""
    folder, out = make_inputs(tmp_path, tensors=4), tmp_path / "out"
    wrapper = (
        f"import resource,runpy,signal;signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE,(100000, {resource.RLIM_INFINITY}));"
        "runpy.run_module('merge', run_name='__main__')"
    )
    command = [sys.executable, "-c", wrapper, *build_command(folder, out)[3:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr and "Traceback" not in done.stderr
    assert not list(out.glob("*.safetensors"))
    merge_whole(folder, out)
    verify(out)
