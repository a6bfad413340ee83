"""Runs on a real SLURM that are disturbed at random moments: is anything lost, do the bits differ?

    PYTHONPATH=. python tests/benchmarks/disturbed_runs.py [--runs 20] [--at-once 3] [--seed 0]

Every run trains both patches on two nodes and merges them. It is disturbed once or twice, at random
moments: by SLURM's warning signal, SIGTERM to the tasks, a STOP file, kill -9 of a rank, kill -9 of
all that runs on a node (other runs lose it too), or a cancellation with another submission. It ends
with status 1 if the bits of one run differ from those of an undisturbed one.
"""

import argparse
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.support.slurm_cluster import NODES, SlurmCluster, kill, slurm_cluster
from tests.support.slurm_runs import PATIENCE, WORLD, Run, sections_of_the_world

_LONGEST_PAUSE = 16.0
"""Seconds from when a job of the run is seen running to a disturbance."""
_NODE_LOCK = threading.Lock()


def warning(cluster: SlurmCluster, run: Run, job: str) -> None:
    cluster.ask("scancel", "--signal=USR1", job)


def terminate(cluster: SlurmCluster, run: Run, job: str) -> None:
    cluster.ask("scancel", "--signal=TERM", job)


def stop_file(cluster: SlurmCluster, run: Run, job: str) -> None:
    (run.folder / "STOP").touch()


def kill_rank(cluster: SlurmCluster, run: Run, job: str) -> None:
    ranks = [
        pid for node in NODES for pid in cluster.pids(node, "launch.slurm.rank", str(run.folder))
    ]
    kill(*random.sample(ranks, min(1, len(ranks))))


def kill_node(cluster: SlurmCluster, run: Run, job: str) -> None:
    node = random.choice(NODES)
    with _NODE_LOCK:
        cluster.kill_node(node)
        # Until SLURM has missed it; a machine that is back sooner tells SLURM that it was rebooted.
        time.sleep(25)
        cluster.start_node(node)


def cancel_and_submit(cluster: SlurmCluster, run: Run, job: str) -> None:
    run.launch("cancel", run.folder)
    run.finish()
    run.submit()


DISTURBANCES: dict[str, Callable[[SlurmCluster, Run, str], None]] = {
    "warning signal": warning,
    "SIGTERM": terminate,
    "STOP file": stop_file,
    "kill a rank": kill_rank,
    "kill a node": kill_node,
    "cancel, submit": cancel_and_submit,
}


def running_stages(cluster: SlurmCluster, run: Run) -> dict[str, str]:
    """Job -> stage, of those that run now."""
    running = cluster.ask("squeue", "-h", "-t", "R", "-o", "%i").split()
    return {job: stage for stage, job in run.jobs().items() if job in running}


def disturb(cluster: SlurmCluster, run: Run, number: int) -> list[str]:
    """Disturb one run once or twice, the kinds in turn; returns what was done, and to what."""
    done = []
    names = list(DISTURBANCES)
    for name in (names[number % len(names)], random.choice(names))[: random.choice((1, 1, 2))]:
        stages = running_stages(cluster, run)
        deadline = time.monotonic() + PATIENCE
        while not stages and time.monotonic() < deadline:
            time.sleep(0.2)
            stages = running_stages(cluster, run)
        time.sleep(random.uniform(0, _LONGEST_PAUSE))
        stages = running_stages(cluster, run)
        if not stages:
            done.append(f"{name}: too late")
            continue
        job = random.choice(list(stages))
        DISTURBANCES[name](cluster, run, job)
        done.append(f"{name} in {stages[job]}")
    return done


def disturbed_run(cluster: SlurmCluster, first: Run, folder: Path, number: int) -> tuple[str, ...]:
    """One run from its submission to its end; returns its row of the table."""
    started = time.monotonic()
    run = Run(cluster, folder / f"run-{number}", **sections_of_the_world(first.folder)).submit()
    disturbances = disturb(cluster, run, number)
    run.finish()
    starts = sum(run.log(stage).count(": start ") for stage in run.jobs())
    try:
        bits = "equal" if run.contents() == first.contents() else "DIFFERENT"
    except FileNotFoundError as missing:
        bits = f"MISSING {missing.filename}"
        sys.stderr.write(run.launch("status", run.folder).stdout)
    seconds = f"{time.monotonic() - started:.0f}"
    row = (str(number), ", ".join(disturbances), str(starts), seconds, bits)
    sys.stderr.write(f"{row}\n")
    return row


def main() -> int:
    """Run, print the table, and say whether all bits are equal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    options = parser.parse_args()
    random.seed(options.seed)
    table = Table("run", "disturbances", "starts", "seconds", "bits")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "slurm").mkdir()
        with slurm_cluster(folder / "slurm") as cluster:
            path = folder / "undisturbed"
            first = Run(cluster, path, **sections_of_the_world(path), world=WORLD).submit()
            first.finish()
            with ThreadPoolExecutor(options.at_once) as pool:
                rows = list(
                    pool.map(
                        lambda number: disturbed_run(cluster, first, folder, number),
                        range(options.runs),
                    )
                )
    for row in rows:
        table.add_row(*row)
    Console(width=140).print(table)
    return int(any(row[-1] != "equal" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
