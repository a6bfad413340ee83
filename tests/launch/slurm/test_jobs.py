"""Batch scripts without SLURM: no value injects a command, and all are clean."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from launch.ablation.patches import WORK
from launch.pipeline.stages import STAGES
from launch.run.stage import Training
from launch.slurm.batch_scripts.stage_scripts import (
    RunPlace,
    render_stage,
    render_summary,
    render_training,
    render_workers,
)
from launch.slurm.rank import rank_environment, step_status
from launch.slurm.submit import plan_chain
from launch.slurm.system.settings import ClusterSettings
from merge.common.errors import UserError

NASTY = [
    "a; touch HERE", "$(touch HERE)", "`touch HERE`", "a\n#SBATCH --wrap=x", "a' 'b", 'a"b', "a b",
    "a\\b", "a&&b", "a|b > c", "--wrap=x y", "", "\x00", "a\n", "é\u2028x", "#", "${HOME}", "a%jb'",
]  # fmt: skip

FULL: dict[str, Any] = {
    "partition": "gpu", "account": "lab-1", "qos": "high", "constraint": "a100&nvlink",
    "time": "1-12:00:00", "nodes": 4, "gpus_per_node": 8, "gpu_type": "a100",
    "cpus_per_process": 12, "memory": "480G", "modules": ["cuda/12.4", "nccl/2.21-1"],
    "extra": ["--exclusive", "--reservation=x_1", "--gpu-bind=none"], "interface": "ib0,ib1",
    "setup": ["source ~/conda.sh", "conda activate x"], "env": {"HF_HOME": "/a b/hf"},
    "comment": "a, b", "mail_type": ["END"],
    "merge": {"partition": "cpu", "time": "01:00:00", "memory": "8G", "cpus": 8},
    "evaluation": {"gpus": 1, "time": "120"},
}  # fmt: skip


def settings(**changes: Any) -> ClusterSettings:
    return ClusterSettings(**{**FULL, **changes})


@pytest.mark.parametrize("value", NASTY)
@pytest.mark.parametrize(
    "key",
    ["partition", "account", "qos", "constraint", "time", "memory", "gpu_type", "interface",
     "python", "modules", "extra", "gres", "mail_user", "mail_type", "merge.gres", "merge.extra",
     "merge.partition", "merge.time", "evaluation.memory",
     "container.image", "container.mounts", "container.runtime"],
)  # fmt: skip
def test_no_nasty_value_passes_its_check(key, value):
    section, _, inner = key.rpartition(".")
    wrapped: Any = [value] if inner in ("modules", "extra", "mail_type", "mounts") else value
    if section == "container":
        wrapped = {"image": "x.sif", inner: wrapped}
    elif section:
        wrapped = {inner: wrapped}
    with pytest.raises(ValidationError):
        settings(**{section or inner: wrapped})


@pytest.mark.parametrize("line", ["--output=x", "--wrap=x", "--outp=x", "--array=1"])
def test_extra_lines_cannot_change_what_the_jobs_set(line):
    with pytest.raises(ValidationError, match="leave it out"):
        settings(extra=[line])


def test_an_unquoted_time_is_told_how_to_mend():
    with pytest.raises(ValidationError, match="in quotes"):
        settings(time=14400)


@pytest.mark.parametrize("name", ["x'; touch HERE; '", "$(touch HERE)", "a\nb"])
def test_a_nasty_run_name_runs_nothing(name, tmp_path, monkeypatch):
    """The script of such a run, executed with every command of SLURM replaced by an echo."""
    monkeypatch.chdir(tmp_path)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "srun").write_text('#!/bin/sh\nfor word in "$@"; do echo "[$word]"; done\n')
    (tools / "scontrol").write_text("#!/bin/sh\necho node7\necho node8\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    run = tmp_path / "my run"
    (run / "jobs").mkdir(parents=True)
    script = run / "jobs" / "safety.sbatch"
    own = settings(modules=[], setup=[], python="/usr/bin/python3")
    script.write_text(render_stage(STAGES["safety"], name, own, RunPlace(run)))
    done = subprocess.run(
        ["bash", script],
        env={"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "7",
             "SLURM_JOB_NODELIST": "node[7-8]"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()[1:]
    assert words[-6:] == [
        "[/usr/bin/python3]", "[-m]", "[launch.slurm.rank]", f"[{run}/recipe.yaml]", "[--role]",
        "[safety]",
    ]  # fmt: skip
    assert "[--kill-on-bad-exit=1]" in words
    assert not list(tmp_path.rglob("HERE"))
    directives = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    assert "#SBATCH --gpus-per-node=a100:8" in directives
    assert next(line for line in directives if "job-name" in line).count(" ") == 1


def test_the_first_patch_is_a_training_with_files_of_its_own(tmp_path):
    """It has the role of the run's own over-safety patch: neither reads the other's files."""
    tools, run = tmp_path / "tools", tmp_path / "run"
    tools.mkdir()
    (run / "jobs").mkdir(parents=True)
    (tools / "scontrol").write_text("#!/bin/sh\necho node7\n")
    srun = f'#!/bin/sh\nwhile [ "$1" != "-m" ]; do shift; done\nexec "{sys.executable}" "$@"\n'
    (tools / "srun").write_text(srun)
    for tool in tools.iterdir():
        tool.chmod(0o755)
    script = run / "first.sbatch"
    own = settings(modules=[], setup=[], interface=None, python=sys.executable, retry_limit=0)
    script.write_text(render_stage(STAGES["over_safety_first"], "x", own, RunPlace(run)))
    step = {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1", "SLURM_PROCID": "0"}
    environment = {
        **os.environ, **step, "SLURM_LOCALID": "0", "PATH": f"{tools}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node7",
    }  # fmt: skip
    start = ["bash", str(script)]
    done = subprocess.run(start, env=environment, capture_output=True, text=True)
    # The folder is not prepared: rank 0 says so, and where this stage's job looks for it.
    assert f"{run}/over_safety.first/recipe.yaml" in done.stderr
    assert done.returncode == 2 and (run / "jobs/over_safety_first.ended").is_file()
    assert not (run / "jobs/over_safety.ended").exists()
    for result in ("harvest/false_refusals.jsonl", "patched/merge.json"):
        (run / result).parent.mkdir()
        (run / result).touch()
        again = subprocess.run(start, env=environment, capture_output=True, text=True)
        assert again.returncode == 0 and "already done" in again.stdout
        (run / result).unlink()


@pytest.mark.parametrize("path", ["a%j", 'a"b', "a'b", "a\nb", "a$b", "a\\b"])
def test_a_run_folder_that_slurm_would_misread_is_refused(path):
    with pytest.raises(UserError, match="SLURM cannot have a log there"):
        RunPlace(Path("/somewhere") / path)


CONTAINER = {"image": "/images/x.sif", "mounts": ["/data", "/a:/b"]}


@pytest.mark.parametrize("seeds", [False, True])
@pytest.mark.parametrize(
    "changes",
    [{}, {"container": CONTAINER}, {"container": {**CONTAINER, "runtime": "pyxis"}}],
    ids=["bare", "apptainer", "pyxis"],
)
def test_every_script_is_clean_for_shellcheck(changes, seeds, tmp_path):
    place = RunPlace(Path("/scratch/my runs/x"), seeds)
    scripts = {
        name: render_stage(stage, "x", settings(**changes), place) for name, stage in STAGES.items()
    }
    scripts["seeds"] = render_summary("x", settings(**changes), place)
    alone = RunPlace(place.folder)
    scripts["workers"] = render_workers(STAGES["search"], "x", settings(**changes), alone)
    training = Training(f"{WORK}/npo/recipe.yaml", "safety", ("ablation/ablation.json",))
    scripts["baseline"] = render_training("ablation.npo", "x", settings(**changes), place, training)
    for name, text in scripts.items():
        (tmp_path / f"{name}.sh").write_text(text)
        checked = subprocess.run(["bash", "-n", tmp_path / f"{name}.sh"], capture_output=True)
        assert checked.returncode == 0, checked.stderr
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck: apt-get install shellcheck")
    checked = subprocess.run(["shellcheck", *tmp_path.glob("*.sh")], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_stages_ask_for_their_own_resources():
    place = RunPlace(Path("/scratch/x"))
    merge = render_stage(STAGES["merge"], "x", settings(), place)
    for line in ("--partition=cpu", "--time=01:00:00", "--mem=8G", "--cpus-per-task=8"):
        assert f"#SBATCH {line}\n" in merge
    assert "gpus" not in merge and "constraint" not in merge
    evaluate = render_stage(STAGES["evaluate"], "x", settings(), place)
    assert "#SBATCH --gpus-per-node=a100:1\n" in evaluate and "--partition=gpu\n" in evaluate


@pytest.mark.slow
def test_dry_run_prints_the_scripts_and_touches_nothing(tmp_path):
    run = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-m", "launch", "submit", "launch/recipes/demo.yaml", "--dry-run",
         f"output={run}", "cluster={partition: gpu, nodes: 2}"],
        env={**os.environ, "SLURM_CONF": "/nowhere"},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("#!/usr/bin/env bash") == 8
    assert f"### {run}/jobs/over_safety.sbatch" in done.stdout
    assert not run.exists()


def test_seeds_are_an_array_of_bounded_width(tmp_path):
    overrides = [f"output={tmp_path}", "cluster={}"]
    chain = plan_chain(Path("launch/recipes/demo.yaml"), overrides, seeds=5, at_once=2)
    assert chain.array == "0-4%2"
    scripts = {job.name: job.script for job in chain.jobs()}
    assert f'run={tmp_path}/seed-"$SLURM_ARRAY_TASK_ID"\n' in scripts["safety"]
    assert f'--output="{tmp_path}/seed-%a/jobs/safety.log"' in scripts["safety"]
    assert [recipe.seed for recipe in chain.recipes] == [0, 1, 2, 3, 4]
    assert list(scripts)[-1] == "seeds"


def test_a_recipe_without_a_cluster_part_is_told_how_to_mend():
    with pytest.raises(UserError, match="add one, as in"):
        plan_chain(Path("launch/recipes/demo.yaml"), [], None, None)


def test_ranks_from_slurms_variables():
    variables = rank_environment(
        {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "8",
         "SLURM_STEP_NUM_NODES": "2"}
    )  # fmt: skip
    assert variables == {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}


def test_starts_of_two_jobs_on_one_host_never_meet_at_a_port():
    """Adjacent jobs run side by side on the same nodes, and each may be at any of its starts."""
    script = render_stage(STAGES["safety"], "x", settings(), RunPlace(Path("/scratch/x")))
    line = next(line for line in script.splitlines() if line.startswith("export MASTER_PORT="))
    loop = (
        f"for SLURM_JOB_ID in {{90..99}}; do for starts in {{1..8}}; do {line}; echo $MASTER_PORT"
    )
    done = subprocess.run(["bash", "-c", f"{loop}; done; done"], capture_output=True, text=True)
    ports = [int(port) for port in done.stdout.split()]
    assert len(ports) == len(set(ports)) == 80
    assert min(ports) >= 20000 and max(ports) < 32000


def test_only_the_main_rank_ends_a_stopped_step():
    assert [step_status(rank, status) for rank, status in ((0, 75), (3, 75), (3, 2), (0, 0))] == [
        75, 0, 2, 0,
    ]  # fmt: skip
