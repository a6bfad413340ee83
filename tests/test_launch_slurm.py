"""The chain of jobs on a real SLURM of two nodes: whole, preempted, killed, wrong, and cancelled."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from slurm_cluster import NODES, SlurmCluster, slurm_cluster, wait_for, why_impossible

IMPOSSIBLE = why_impossible()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(IMPOSSIBLE is not None, reason=f"no SLURM here: {IMPOSSIBLE}"),
]

PATIENCE = 240
"""Seconds for any one thing to happen, on a machine that is busy with others."""
HASHED = (
    "safety/delta.safetensors", "safety/importance.safetensors",
    "over_safety/delta.safetensors", "over_safety/importance.safetensors",
    "patched/model.safetensors",
)  # fmt: skip
TRAINING = {
    "learning_rate": 1e-4,
    "batch_size": 8,
    "micro_batch_size": 4,
    "steps": 40,
    "max_length": 64,
    "checkpoint_every": 5,
    "guards": {"max_forget_loss": 50.0},
}
RECIPE: dict[str, Any] = {
    "name": "tiny run",
    "safety": TRAINING,
    "over_safety": TRAINING,
    "importance": {"samples": 40},
    "merge": {"retention": 0.8},
    "keep_intermediates": True,
    "cluster": {
        "partition": "gpu",
        "nodes": 2,
        "cpus_per_process": 1,
        "interface": "eth0",
        "time": "30",
        "warning_seconds": 20,
        "merge": {"partition": "cpu", "memory": "500M"},
    },
}
WORLD = {
    "nouns": 8, "verbs": 3, "hidden_size": 32, "layers": 2, "steps": 60, "prompts": 12,
    "harmful_pairs": 40,
}  # fmt: skip


class Run:
    """One run of a recipe on the cluster, and what its owner does with it."""

    def __init__(self, cluster: SlurmCluster, folder: Path, **sections: Any) -> None:
        self.cluster = cluster
        self.folder = folder
        self.recipe = folder.with_suffix(".yaml")
        self.recipe.write_text(yaml.safe_dump({**RECIPE, "output": str(folder), **sections}))

    def launch(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "launch", *arguments],
            env={**self.cluster.environment, "COLUMNS": "200"},
            capture_output=True,
            text=True,
        )

    def submit(self, *arguments: str) -> "Run":
        done = self.launch("submit", self.recipe, *arguments)
        assert done.returncode == 0, done.stderr
        return self

    def jobs(self) -> dict[str, str]:
        return json.loads((self.folder / "jobs/jobs.json").read_text())

    def log(self, stage: str) -> str:
        file = self.folder / f"jobs/{stage}.log"
        return file.read_text() if file.exists() else ""

    def finish(self) -> None:
        """Wait until none of its jobs is in the queue."""
        ours = set(self.jobs().values())
        wait_for(
            lambda: not ours & set(self.cluster.ask("squeue", "-h", "-r", "-o", "%i").split()),
            PATIENCE,
            lambda: self.cluster.ask("squeue") + "".join(map(self.log, self.jobs())),
        )

    def when(self, condition: Callable[[], object]) -> None:
        wait_for(lambda: bool(condition()), PATIENCE, lambda: "".join(map(self.log, self.jobs())))

    def has_checkpoint(self, role: str) -> bool:
        return any((self.folder / f"{role}.work").glob("step-*/complete.json"))

    def contents(self) -> dict[str, bytes]:
        return {name: (self.folder / name).read_bytes() for name in HASHED}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs with blank")


def sections_of_the_world(run: Path) -> dict[str, Any]:
    return {
        "backbone": {"path": f"{run}/world/backbone"},
        "data": {"path": f"{run}/world/harmful.jsonl"},
    }


def whole_chain(run: Path) -> dict[str, Any]:
    return {
        **sections_of_the_world(run),
        "world": WORLD,
        "search": {"suite": f"{run}/world/validation.yaml", "trials": 6},
        "eval": {"suite": f"{run}/world/test.yaml"},
    }


@pytest.fixture(scope="module")
def undisturbed(cluster: SlurmCluster, folder: Path) -> Run:
    path = folder / "undisturbed"
    run = Run(cluster, path, **whole_chain(path)).submit()
    run.finish()
    return run


def test_the_whole_chain_ends_in_its_report(undisturbed: Run) -> None:
    report = json.loads((undisturbed.folder / "report/report.json").read_text())
    assert {"backbone", "safety", "over_safety", "safepatching"} == set(report["models"])
    jobs = undisturbed.folder / "jobs"
    for stage in ("world", "safety", "over_safety", "search", "merge", "evaluate"):
        assert (jobs / f"{stage}.sbatch").is_file() and (jobs / f"{stage}.log").is_file()
        assert "start 1 of job" in undisturbed.log(stage)
    assert (jobs / f"safety-{NODES[1]}-rank1.log").is_file()
    assert not list(jobs.glob("safety-*-rank0.log")), "rank 0 speaks to the job's log"
    status = undisturbed.launch("status", undisturbed.folder)
    assert status.returncode == 0 and status.stdout.count(" done ") == 6, status.stdout
    again = undisturbed.launch("submit", undisturbed.recipe)
    assert "nothing to submit" in again.stdout


def test_preemption_in_every_stage_changes_no_bit(
    cluster: SlurmCluster, folder: Path, undisturbed: Run
) -> None:
    """SLURM's warning to each stage in its middle: it saves, requeues itself, and goes on."""
    path = folder / "preempted"
    run = Run(cluster, path, **whole_chain(path)).submit()
    moments: dict[str, Callable[[], object]] = {
        "world": lambda: "world: begins" in run.log("world"),
        "safety": lambda: "training safety" in run.log("safety"),
        "over_safety": lambda: "importance of" in run.log("over_safety"),
        "search": lambda: (path / "search/difference.jsonl").exists(),
        "merge": lambda: "merge: begins" in run.log("merge"),
        "evaluate": lambda: "evaluation: backbone" in run.log("evaluate"),
    }
    for stage, moment in moments.items():
        run.when(moment)
        cluster.ask("scancel", "--signal=USR1", run.jobs()[stage])
    run.finish()
    for stage in moments:
        log = run.log(stage)
        assert "stopped on request; requeued" in log and "start 2 of job" in log, log
    assert "continuing after step" in run.log("safety")
    assert (path / "report/report.json").is_file()
    assert run.contents() == undisturbed.contents()


def test_a_killed_rank_is_told_and_the_job_goes_on(
    cluster: SlurmCluster, folder: Path, undisturbed: Run
) -> None:
    run = Run(cluster, folder / "rank", **sections_of_the_world(undisturbed.folder)).submit()
    run.when(lambda: run.has_checkpoint("safety"))
    (victim,) = [
        pid for pid in cluster.pids(NODES[1], "launch.rank") if "--role over" not in words(pid)
    ]
    killed = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    run.when(lambda: "requeued" in run.log("safety"))
    assert time.monotonic() - killed < 60
    assert f"{NODES[1]}: task 1: Killed" in run.log("safety")
    run.finish()
    assert "continuing after step" in run.log("safety")
    for name in HASHED[:4]:
        assert run.contents()[name] == undisturbed.contents()[name]


def words(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def test_a_killed_node_ends_the_job_and_it_goes_on(
    cluster: SlurmCluster, folder: Path, undisturbed: Run
) -> None:
    run = Run(cluster, folder / "node", **sections_of_the_world(undisturbed.folder)).submit()
    run.when(lambda: run.has_checkpoint("safety"))
    killed = time.monotonic()
    cluster.kill_node(NODES[1])
    run.when(lambda: run.cluster.ask("squeue", "-h", "-t", "R", "-j", run.jobs()["safety"]) == "")
    assert time.monotonic() - killed < 60
    cluster.start_node(NODES[1])
    run.finish()
    assert "start 2 of job" in run.log("safety")
    for name in HASHED[:4]:
        assert run.contents()[name] == undisturbed.contents()[name]
    cluster.wait_until_idle()


def test_a_wrong_recipe_ends_the_chain_with_its_mend(
    cluster: SlurmCluster, folder: Path, undisturbed: Run
) -> None:
    wrong = {**TRAINING, "learning_rate": 1e30, "checkpoint_every": 0}
    sections = {**sections_of_the_world(undisturbed.folder), "safety": wrong}
    run = Run(cluster, folder / "wrong", **sections).submit()
    run.finish()
    status = run.launch("status", run.folder).stdout
    assert "diverged" in status and "safety.learning_rate" in status, status
    assert "DependencyNeverSatisfied" in status and "submit again" in status, status
    assert "requeued" not in run.log("safety"), "no start of it can help"
    assert not (run.folder / "patched").exists()


def test_a_cancelled_run_ends_and_goes_on_when_submitted_again(
    cluster: SlurmCluster, folder: Path, undisturbed: Run
) -> None:
    run = Run(cluster, folder / "cancel", **sections_of_the_world(undisturbed.folder)).submit()
    run.when(lambda: run.has_checkpoint("safety"))
    status = run.launch("status", run.folder).stdout
    assert "running" in status and "waits for the stages before it" in status, status
    refused = run.launch("submit", run.recipe)
    assert refused.returncode == 2 and "in the queue" in refused.stderr
    done = run.launch("cancel", run.folder)
    assert done.returncode == 0 and done.stdout.startswith("cancelled: "), done.stderr
    run.finish()
    assert "requeued" not in run.log("safety")
    assert run.launch("status", run.folder).stdout.count("cancelled") >= 2
    run.submit().finish()
    assert run.contents().keys() and "continuing after step" in run.log("safety")
    for name in HASHED[:4]:
        assert run.contents()[name] == undisturbed.contents()[name]
