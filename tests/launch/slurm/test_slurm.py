"""The jobs on a real SLURM of two nodes: whole, preempted, killed, wrong, and cancelled."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launch.search.storage import FILE
from launch.slurm.queue.job_record import read_jobs
from tests.support.slurm_cluster import (
    NODES,
    SlurmCluster,
    kill,
    slurm_cluster,
    wait_for,
)
from tests.support.slurm_runs import (
    HASHED,
    MARKS,
    PATIENCE,
    RECIPE,
    TRAINING,
    Run,
    sections_of_the_world,
    whole_chain,
)

pytestmark = MARKS


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A filesystem of 32 MiB; mounted before the nodes start, which see what was mounted then."""
    folder = tmp_path_factory.mktemp("small")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, small_disk: Path) -> Iterator[SlurmCluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs with blank")


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
    patches = ("world", "openings", "safety", "over_safety")
    stages = (*patches, "search", "comparisons", "merge", "evaluate")
    for stage in stages:
        assert (jobs / f"{stage}.sbatch").is_file() and (jobs / f"{stage}.log").is_file()
        assert "start 1 of job" in undisturbed.log(stage)
    assert (jobs / f"safety-{NODES[1]}-rank1.log").is_file()
    assert not list(jobs.glob("safety-*-rank0.log")), "rank 0 speaks to the job's log"
    status = undisturbed.launch("status", undisturbed.folder)
    assert status.returncode == 0 and status.stdout.count(" done ") == len(stages), status.stdout
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
        "search": lambda: (path / "search" / FILE).exists(),
        "comparisons": lambda: "evaluation: safety" in run.log("comparisons"),
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
    # The shell that starts it holds the same words.
    ranks = cluster.pids(NODES[1], "launch.slurm.rank", "--role safety")
    killed = time.monotonic()
    kill(*ranks)
    run.when(lambda: "requeued" in run.log("safety"))
    assert time.monotonic() - killed < 60
    assert f"{NODES[1]}: task 1: Killed" in run.log("safety")
    run.finish()
    assert "continuing after step" in run.log("safety")
    for name in HASHED[:4]:
        assert run.contents()[name] == undisturbed.contents()[name]


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


LEAKED = {
    "SBATCH_EXPORT": "NONE", "SBATCH_TIMELIMIT": "1", "SLURM_EXPORT_ENV": "NONE",
    "SLURM_MEM_PER_CPU": "400", "SLURM_MEM_PER_NODE": "400", "SLURM_NTASKS_PER_NODE": "3",
    "SLURM_CPU_BIND": "quiet,mask_cpu:0x1", "SRUN_EXPORT_ENV": "NONE", "SRUN_CPUS_PER_TASK": "9",
}  # fmt: skip
"""What a site's profile and an interactive session leave in a shell; the two of memory end srun."""
WRAPPER = """\
#!/bin/sh
echo "Welcome to the Pear cluster! Nodes:"
echo 2
{sbatch} "$@" || exit
echo "Good luck."
"""


def _session(folder: Path) -> dict[str, str]:
    """Variables of such a shell, with a module's packages and a site's own sbatch."""
    (folder / "tools").mkdir()
    (folder / "tools/sbatch").write_text(WRAPPER.format(sbatch=shutil.which("sbatch")))
    (folder / "tools/sbatch").chmod(0o755)
    (folder / "packages").mkdir()
    seen = f"import os\n'SLURM_JOB_ID' in os.environ and open({str(folder / 'seen')!r}, 'w')\n"
    (folder / "packages/sitecustomize.py").write_text(seen)
    path = f"{folder}/tools:{os.environ['PATH']}:/usr/sbin:/sbin"
    return {**LEAKED, "PYTHONPATH": f"{folder}/packages", "PATH": path}


def test_what_a_site_and_a_session_set_changes_no_bit(
    cluster: SlurmCluster, folder: Path, undisturbed: Run, tmp_path: Path
) -> None:
    run = Run(cluster, folder / "session", **sections_of_the_world(undisturbed.folder))
    run.submit(**_session(tmp_path))
    assert all(job.isdigit() for job in run.jobs().values())
    limit = cluster.ask("squeue", "-h", "-o", "%l", "-j", run.jobs()["safety"])
    assert limit == "30:00", "the recipe's, not SBATCH_TIMELIMIT"
    run.finish()
    for name in HASHED[:4]:
        assert run.contents()[name] == undisturbed.contents()[name], run.log("safety")
    assert not (tmp_path / "seen").exists()


def test_a_refused_chain_leaves_nothing_and_its_scripts_run_by_hand(
    cluster: SlurmCluster, folder: Path, undisturbed: Run, tmp_path: Path
) -> None:
    """The merge names a partition that is not there; a script clears a session's variables."""
    sections = sections_of_the_world(undisturbed.folder)
    wrong = {**RECIPE["cluster"], "merge": {"partition": "nowhere"}}
    run = Run(cluster, folder / "by hand", **sections, cluster=wrong)
    done = run.launch("submit", run.recipe)
    assert done.returncode == 2 and "were cancelled" in done.stderr, done.stderr
    assert "nvalid partition" in done.stderr.splitlines()[-1] and run.jobs() == {}
    wait_for(lambda: cluster.ask("squeue", "-h") == "", PATIENCE, lambda: cluster.ask("squeue"))
    script = run.folder / "jobs/safety.sbatch"
    session = {**cluster.environment, **_session(tmp_path)}
    del session["SBATCH_TIMELIMIT"]  # by hand it wins
    queued = subprocess.run(["sbatch", script], env=session, capture_output=True, text=True)
    assert queued.returncode == 0, queued.stderr
    run.when(lambda: cluster.ask("squeue", "-h") == "")
    assert (run.folder / "safety/patch.json").is_file(), run.log("safety")
    assert not (tmp_path / "seen").exists()
    for name in HASHED[:2]:
        assert (run.folder / name).read_bytes() == undisturbed.contents()[name]


def test_a_wrong_recipe_ends_the_chain_with_its_fix(
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


def test_a_full_disk_ends_the_chain_and_it_goes_on_when_there_is_room(
    cluster: SlurmCluster, small_disk: Path, undisturbed: Run
) -> None:
    """Too small a disk is refused at once; this one fills up when the jobs are queued."""
    run = Run(cluster, small_disk / "run", **sections_of_the_world(undisturbed.folder)).submit()
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 400_000))
    run.finish()
    assert not (run.folder / "safety/patch.json").exists()
    status = run.launch("status", run.folder).stdout
    assert "FAILED" in status and "submit again" in status, status
    assert run.log("safety").count(": start ") == 1, "a full disk does not fix itself"
    filler.unlink()
    run.submit().finish()
    for name in HASHED[:4]:
        assert run.contents()[name] == undisturbed.contents()[name]


def test_seeds_run_as_job_arrays_and_are_averaged(
    cluster: SlurmCluster, folder: Path, undisturbed: Run
) -> None:
    suite = f"{undisturbed.folder}/world/test.yaml"
    sections = {
        **sections_of_the_world(undisturbed.folder),
        "eval": {"suite": suite, "single_patches": False},
    }
    run = Run(cluster, folder / "seeds", **sections).submit("--seeds", "2", "--at-once", "1")
    job = read_jobs(run.folder / "seed-1")["safety"]
    assert job.endswith("_1")
    throttle = cluster.ask("scontrol", "show", "job", job.partition("_")[0])
    assert "ArrayTaskThrottle=1" in throttle
    cluster.ask("scancel", "--signal=USR1", read_jobs(run.folder / "seed-0")["safety"])
    run.finish()
    seeds = json.loads((run.folder / "seeds.json").read_text())
    assert seeds["seeds"] == 2 and "safepatching" in seeds["models"]
    patches = [(run.folder / f"seed-{seed}" / HASHED[0]).read_bytes() for seed in (0, 1)]
    assert patches[0] == undisturbed.contents()[HASHED[0]] != patches[1]
    assert run.launch("status", run.folder).stdout.count(" done ") == 8


def test_a_cancelled_run_ends_and_goes_on_when_submitted_again(
    cluster: SlurmCluster, folder: Path, undisturbed: Run
) -> None:
    long = {**TRAINING, "steps": 400, "checkpoint_every": 20}
    sections = {**sections_of_the_world(undisturbed.folder), "safety": long}
    run = Run(cluster, folder / "cancel", **sections).submit()
    run.when(lambda: run.has_checkpoint("safety"))
    # On a busy machine the training would end before these commands do.
    cluster.ask("scancel", "--signal=STOP", run.jobs()["safety"])
    status = run.launch("status", run.folder).stdout
    assert "running" in status and "waits for the stages before it" in status, status
    refused = run.launch("submit", run.recipe)
    assert refused.returncode == 2 and "in the queue" in refused.stderr
    done = run.launch("cancel", run.folder)
    assert done.returncode == 0 and done.stdout.startswith("cancelled: "), done.stderr
    run.finish()
    assert "requeued" not in run.log("safety")
    assert "cancelled" in run.launch("status", run.folder).stdout
    run.submit().finish()
    assert "continuing after step" in run.log("safety")
    assert (run.folder / "patched/merge.json").is_file()
