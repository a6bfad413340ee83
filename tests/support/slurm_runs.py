"""Small runs on the cluster of slurm_cluster.py, for its tests."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.slurm_cluster import SlurmCluster, wait_for, why_impossible

_IMPOSSIBLE = why_impossible()
MARKS = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    # .ci/run installs it, and there a test that is passed over would be a mistake.
    pytest.mark.skipif(
        _IMPOSSIBLE is not None and "REQUIRE_SLURM" not in os.environ,
        reason=f"no SLURM here: {_IMPOSSIBLE}",
    ),
]
PATIENCE = 400
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

    def __init__(self, cluster: SlurmCluster, folder: Path, /, **sections: Any) -> None:
        self.cluster = cluster
        self.folder = folder
        self.recipe = folder.with_suffix(".yaml")
        self.recipe.write_text(yaml.safe_dump({**RECIPE, "output": str(folder), **sections}))

    def launch(self, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "launch", *arguments],
            env={**self.cluster.environment, "COLUMNS": "200", **variables},
            capture_output=True,
            text=True,
        )

    def submit(self, *arguments: str, **variables: str) -> "Run":
        done = self.launch("submit", self.recipe, *arguments, **variables)
        assert done.returncode == 0, done.stderr
        return self

    def jobs(self) -> dict[str, str]:
        return _read(self.folder / "jobs/jobs.json")

    def log(self, stage: str) -> str:
        file = self.folder / f"jobs/{stage}.log"
        return file.read_text() if file.exists() else ""

    def finish(self) -> None:
        """Wait until none of its jobs is in the queue."""
        ours = {job for file in self.folder.rglob("jobs.json") for job in _read(file).values()}
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


def _read(file: Path) -> dict[str, str]:
    return json.loads(file.read_text())


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
