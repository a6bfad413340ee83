"""Trainings that are asked to stop: status 75, everything saved, and the same bits in the end."""

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from merge.common.errors import STOPPED_EXIT_STATUS
from merge.common.files import read_json
from tests.support.train_helpers import (
    ROOT,
    make_backbone,
    make_pairs,
    make_recipe,
    run_training,
    stop_after_a_checkpoint,
    stop_training,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MANY = ["safety.steps=60", "importance.samples=160"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopping")
    make_pairs(folder / "pairs.jsonl", count=200)
    return make_recipe(folder)


@pytest.fixture(scope="module")
def undisturbed(recipe: Path) -> Path:
    run = recipe.parent / "undisturbed"
    done = run_training(recipe, f"output={run}", *MANY)
    assert done.returncode == 0, done.stderr
    return run


def disturb(
    recipe: Path, run: Path, words: str, ask: Callable[[int], None], *more: str, processes: int = 2
) -> str:
    return stop_training(recipe, words, ask, f"output={run}", *MANY, *more, processes=processes)


def ranks_of(launcher: int) -> list[int]:
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text()
    return [int(pid) for pid in children.split()]


def test_stops_at_any_point_change_no_bit(recipe: Path, undisturbed: Path) -> None:
    """SIGTERM to the launcher in training, a STOP file, SIGUSR1 to one rank in importance."""
    run = recipe.parent / "run"
    log = disturb(recipe, run, "; training safety", lambda pid: os.kill(pid, signal.SIGTERM))
    assert "saved after step" in log
    (run / "STOP").touch()
    again = run_training(recipe, f"output={run}", *MANY)
    assert again.returncode == STOPPED_EXIT_STATUS and "continuing after step" in again.stderr
    assert not (run / "STOP").exists()
    log = disturb(
        recipe, run, "importance of", lambda pid: os.kill(ranks_of(pid)[1], signal.SIGUSR1)
    )
    assert "saved with the importance of" in log
    assert not (run / "safety/patch.json").exists()
    last = run_training(recipe, f"output={run}", *MANY)
    assert last.returncode == 0, last.stderr
    for name in ("delta.safetensors", "importance.safetensors"):
        assert (run / "safety" / name).read_bytes() == (undisturbed / "safety" / name).read_bytes()
    assert read_json(run / "safety/patch.json")["stop_reason"] == "all steps done"
    assert not (run / "safety.work").exists()


def test_ctrl_c_saves_as_sigterm_does_and_says_so_once(recipe: Path) -> None:
    """As a terminal sends it, to the launcher and all ranks at once."""
    run = recipe.parent / "ctrl-c"

    def press(launcher: int) -> None:
        for pid in (launcher, *ranks_of(launcher)):
            os.kill(pid, signal.SIGINT)

    log = disturb(recipe, run, "; training safety", press)
    assert log.count("stopped on request") == log.count("saved after step") == 1
    assert list((run / "safety.work").glob("step-*/complete.json"))
    assert "Traceback" not in log and "interrupted" not in log


def stop_soon(launcher: int) -> None:
    """A moment into the importance pass, which takes seconds."""
    threading.Timer(0.7, os.kill, (launcher, signal.SIGUSR1)).start()


def test_importance_goes_on_in_its_middle(recipe: Path, undisturbed: Path) -> None:
    """A stop after some samples: the sums in the checkpoint are those that go on."""
    run = recipe.parent / "middle"
    log = disturb(recipe, run, "importance of", stop_soon)
    samples = int(log.split("with the importance of ")[1].split()[0])
    assert 0 < samples < 160 and samples % 16 == 0
    last = run_training(recipe, f"output={run}", *MANY)
    assert last.returncode == 0, last.stderr
    for name in ("delta.safetensors", "importance.safetensors"):
        assert (run / "safety" / name).read_bytes() == (undisturbed / "safety" / name).read_bytes()


def test_a_stop_while_the_patch_is_written_loses_nothing(tmp_path: Path) -> None:
    """Training and importance are finished then, and no checkpoint holds them yet."""
    make_backbone(tmp_path / "backbone", num_hidden_layers=24)  # its 219 tensors take a while
    recipe = make_recipe(tmp_path, safety={"steps": 1}, importance={"samples": 2})
    whole, run = tmp_path / "whole", tmp_path / "run"
    done = run_training(recipe, f"output={whole}")
    assert done.returncode == 0, done.stderr
    words = "writing the patch"
    log = stop_training(recipe, words, lambda pid: os.kill(pid, signal.SIGUSR1), f"output={run}")
    assert "saved with its whole importance" in log
    assert list((run / "safety").iterdir()) == []
    last = run_training(recipe, f"output={run}")
    assert last.returncode == 0 and "continuing after step 1" in last.stderr, last.stderr
    for name in ("delta.safetensors", "importance.safetensors"):
        assert (run / "safety" / name).read_bytes() == (whole / "safety" / name).read_bytes()
    assert not (run / "safety.work").exists()


def test_other_numbers_of_processes_go_on(recipe: Path, undisturbed: Path) -> None:
    """Three processes begin, two end the training, one the importance: up to rounding, the patch
    of two. DeepSpeed keeps the parameters in several groups, which differ with the processes."""
    config = json.loads((ROOT / "ds_configs/zero3_cpu.json").read_text())
    config["zero_optimization"]["sub_group_size"] = 3000
    file = recipe.parent / "groups.json"
    file.write_text(json.dumps(config))
    more = [f"safety.ds_config={file}", "safety.checkpoint_every=10"]
    run = recipe.parent / "recut"
    stop = stop_after_a_checkpoint(run)
    log = disturb(recipe, run, "; training safety", stop, *more, processes=3)
    assert 10 <= int(log.split("saved after step ")[1].split(";")[0]) < 60
    log = disturb(recipe, run, "importance of", stop_soon, *more)
    assert " of 3 processes" in log and "with the importance of 160" not in log
    last = run_training(recipe, f"output={run}", *MANY, *more, processes=1)
    assert last.returncode == 0 and " of 2 processes" in last.stderr, last.stderr
    for name in ("delta", "importance"):
        expected = load_file(undisturbed / f"safety/{name}.safetensors")
        for key, values in load_file(run / f"safety/{name}.safetensors").items():
            np.testing.assert_allclose(values, expected[key], rtol=1e-3, atol=1e-5, err_msg=key)


def test_a_guard_goes_back_to_the_last_good_state(recipe: Path) -> None:
    """The patch equals that of a training that ends at that step."""
    bound = ["safety.guards.max_patch_norm=1.2", "safety.guards.patch_norm_every=1"]
    run, short = recipe.parent / "guarded", recipe.parent / "short"
    done = run_training(
        recipe, f"output={run}", "safety.steps=60", "safety.checkpoint_every=3", *bound
    )
    assert done.returncode == 0, done.stderr
    record = read_json(run / "safety/patch.json")
    steps = record["steps"]
    assert 0 < steps < 60 and steps % 3 == 0
    assert record["stop_reason"].startswith("patch norm ")
    assert record["stop_reason"].endswith(f"; the patch is of step {steps}")
    done = run_training(recipe, f"output={short}", f"safety.steps={steps}")
    assert done.returncode == 0, done.stderr
    for name in ("delta.safetensors", "importance.safetensors"):
        assert (run / "safety" / name).read_bytes() == (short / "safety" / name).read_bytes()
