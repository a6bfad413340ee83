"""The commands of train/: launchers, errors without a traceback, and who may read what."""

import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.train_helpers import ROOT, make_recipe, run_training
from train.launcher import training_command

BINARIES = Path(sys.executable).parent


def assert_one_error_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in errors[0]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_recipe(tmp_path_factory.mktemp("command"))


def test_launcher_command_runs_from_python(recipe: Path) -> None:
    command = training_command(2, recipe, "safety", ["seed=3"])
    assert command[:3] == [sys.executable, "-m", "train.launcher"]
    assert command[3:] == ["--processes=2", str(recipe), "seed=3", "--role=safety"]


def test_a_missing_role_is_told_once(recipe: Path) -> None:
    command = [sys.executable, "-m", "train.launcher", "--processes=2", str(recipe)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("usage: train ") == done.stderr.count("required: --role") == 1


def test_unknown_key_is_told_by_one_rank(recipe: Path) -> None:
    done = run_training(recipe, "safety.learning_rat=1", processes=2)
    assert_one_error_line(done, "safety.learning_rat", "did you mean 'learning_rate'?")


@pytest.mark.slow
def test_missing_data_is_told_by_one_rank(recipe: Path) -> None:
    done = run_training(recipe, "data.path=nowhere.jsonl", processes=2)
    assert_one_error_line(done, "nowhere.jsonl", "cannot be read")


@pytest.mark.slow
def test_missing_backbone_is_told_by_one_rank(recipe: Path) -> None:
    done = run_training(recipe, "backbone.path=./nowhere", processes=2)
    assert_one_error_line(done, "nowhere", "no such folder")


@pytest.mark.slow
def test_output_that_cannot_be_made_ends_all_ranks(recipe: Path, tmp_path: Path) -> None:
    """Only the main rank makes folders; the others must not wait for it."""
    (tmp_path / "file").write_text("kept")
    done = run_training(recipe, f"output={tmp_path / 'file' / 'run'}")
    assert_one_error_line(done, "file", "cannot be made")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.slow
def test_deepspeed_launcher_hands_on_the_error(recipe: Path) -> None:
    done = subprocess.run(
        [
            BINARIES / "deepspeed",
            "--num_gpus=2",
            "--module",
            "train",
            recipe,
            "seed=x",
            "--role=safety",
        ],
        cwd=ROOT,
        env={**os.environ, "DS_ACCELERATOR": "cpu", "PATH": f"{BINARIES}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert_one_error_line(done, "'seed' = 'x'")


@pytest.mark.slow
def test_port_in_use_is_one_line(recipe: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            training_command(2, recipe, "safety", [f"output={tmp_path / 'run'}"]),
            cwd=ROOT,
            env={**os.environ, "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert_one_error_line(done, f"port {port} is in use")


@pytest.mark.slow
def test_offload_without_a_compiler_is_one_line(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    config = f"safety.ds_config={ROOT / 'ds_configs/zero3_offload.json'}"
    done = run_training(recipe, f"output={tmp_path / 'run'}", config, processes=1)
    assert_one_error_line(done, "could not compile", "install g++", '"torch_adam": true')


@pytest.mark.slow
def test_divergence_ends_all_ranks_without_a_patch(recipe: Path, tmp_path: Path) -> None:
    done = run_training(recipe, f"output={tmp_path / 'run'}", "safety.learning_rate=1e30")
    assert_one_error_line(done, "diverged", "safety.learning_rate")
    assert not (tmp_path / "run/safety/patch.json").exists()


@pytest.mark.slow
def test_a_patch_that_is_not_finite_is_none(recipe: Path, tmp_path: Path) -> None:
    """The last step is too far: no loss of the training sees it, and the importance is NaN."""
    wild = ["safety.learning_rate=1000", "safety.steps=1", "safety.checkpoint_every=1"]
    done = run_training(recipe, f"output={tmp_path / 'run'}", *wild)
    assert_one_error_line(done, "not finite", "lower safety.learning_rate", "safety.guards")
    assert not list((tmp_path / "run/safety").iterdir())
    assert not (tmp_path / "run/safety.work").exists()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["deepspeed", "torchrun"])
def test_standard_launchers_train_the_same_patch(
    recipe: Path, tmp_path: Path, launcher: str
) -> None:
    """``deepspeed --module train`` and torchrun give the bits of the project's own launcher."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start = {
        "deepspeed": ["deepspeed", "--num_gpus=2", f"--master_port={port}", "--module", "train"],
        "torchrun": ["torchrun", "--nproc-per-node=2", f"--master-port={port}", "-m", "train"],
    }[launcher]
    command = [str(BINARIES / start[0]), *start[1:], str(recipe), f"output={tmp_path / 'a'}"]
    done = subprocess.run(
        [*command, "--role", "safety"],
        cwd=ROOT,
        env={
            **os.environ,
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{BINARIES}:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    own = run_training(recipe, f"output={tmp_path / 'b'}")
    assert own.returncode == 0, own.stderr
    for name in ("delta.safetensors", "importance.safetensors"):
        ours = (tmp_path / "b/safety" / name).read_bytes()
        assert (tmp_path / "a/safety" / name).read_bytes() == ours


@pytest.mark.slow
def test_over_safety_run_is_private_and_leaves_no_checkpoint(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = run_training(
        recipe, f"output={run}", "over_safety.checkpoint_every=1", role="over_safety"
    )
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE((run / "over_safety").stat().st_mode) == 0o700
    files = list((run / "over_safety").iterdir())
    assert files and all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    assert not (run / "over_safety.work").exists()
    # Descent: the objective is the forget loss itself, in the curves and in the JSON lines.
    lines = [json.loads(line) for line in (run / "metrics/over_safety.jsonl").open()]
    steps = [line for line in lines if "loss/objective(nats)" in line]
    assert [line["step"] for line in steps] == loss_steps(run)
    for line in steps:
        assert line["loss/objective(nats)"] == pytest.approx(line["loss/forget(nats)"], rel=1e-5)
    assert {"importance", "export"} <= {line.get("what") for line in lines}


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["rank", "launcher"])
def test_kill_and_rerun_gives_the_same_bits(recipe: Path, tmp_path: Path, victim: str) -> None:
    """kill -9 of one rank, or of the launcher, at a random step: nothing stays behind running,
    the checkpoint is private, and the rerun's patch equals an undisturbed one bit for bit."""
    random_step = random.randrange(3, 30)
    many = ["over_safety.steps=40", "over_safety.warmup_steps=10", "over_safety.checkpoint_every=3"]
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    command = training_command(2, recipe, "over_safety", [f"output={run}", *many])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launcher = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    ranks: list[int] = []
    deadline = time.monotonic() + 120
    while not any(
        int(marker.parent.name[5:]) >= random_step
        for marker in (run / "over_safety.work").glob("step-*/complete.json")
    ):
        assert launcher.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text()
    ranks = [int(pid) for pid in children.split()]
    assert stat.S_IMODE((run / "over_safety.work").stat().st_mode) == 0o700
    os.kill(ranks[1] if victim == "rank" else launcher.pid, signal.SIGKILL)
    status = launcher.wait(timeout=30)
    assert status == (137 if victim == "rank" else -9)
    while any(Path(f"/proc/{pid}").exists() for pid in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not (run / "over_safety/patch.json").exists()

    resumed = run_training(recipe, f"output={run}", *many, role="over_safety")
    assert resumed.returncode == 0 and "continuing after step" in resumed.stderr, resumed.stderr
    whole = run_training(recipe, f"output={undisturbed}", *many, role="over_safety")
    assert whole.returncode == 0, whole.stderr
    for name in ("delta.safetensors", "importance.safetensors"):
        expected = (undisturbed / "over_safety" / name).read_bytes()
        assert (run / "over_safety" / name).read_bytes() == expected
    assert not (run / "over_safety.work").exists()
    assert loss_steps(run) == loss_steps(undisturbed) == list(range(1, 41))


def loss_steps(run: Path) -> list[int]:
    events = EventAccumulator(str(run / "tensorboard/train-over_safety"))
    events.Reload()
    return [event.step for event in events.Scalars("loss/forget(nats)")]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "every"), [("4k", 0), ("100k", 1), ("200k", 0)])
def test_a_full_disk_is_one_line_wherever_it_is_met(
    recipe: Path, small_disk: Path, size: str, every: int
) -> None:
    """In the curves, in a checkpoint, in the patch."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(small_disk)], check=True)
    overrides = [f"output={small_disk / 'run'}", f"safety.checkpoint_every={every}"]
    done = run_training(recipe, *overrides, processes=1)
    assert_one_error_line(done, str(small_disk), "cannot")
    assert not list(small_disk.rglob("*.tmp"))
