"""Runs on a real SLURM that are disturbed at random moments: is anything lost, do the bits differ?

    python tests/disturbed_runs.py [--runs 20] [--seed 0]        (as root; needs slurm-wlm, munge)

Every run trains both patches on two nodes and merges them. Disturbances, drawn at random: SLURM's
warning signal, SIGTERM to the tasks, a STOP file, kill -9 of a rank, kill -9 of all that runs on a
node, and scancel with another submission. It ends with status 1 if one run's bits differ.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from slurm_cluster import NODES, SlurmCluster, kill, slurm_cluster
from slurm_runs import WORLD, Run, sections_of_the_world

_LONGEST_PAUSE = 25.0
"""Seconds from submission, or from the disturbance before, to the next."""


def warning(cluster: SlurmCluster, run: Run, job: str) -> None:
    cluster.ask("scancel", "--signal=USR1", job)


def terminate(cluster: SlurmCluster, run: Run, job: str) -> None:
    cluster.ask("scancel", "--signal=TERM", job)


def stop_file(cluster: SlurmCluster, run: Run, job: str) -> None:
    (run.folder / "STOP").touch()


def kill_rank(cluster: SlurmCluster, run: Run, job: str) -> None:
    ranks = [pid for node in NODES for pid in cluster.pids(node, "launch.rank")]
    if ranks:
        kill(random.choice(ranks))


def kill_node(cluster: SlurmCluster, run: Run, job: str) -> None:
    node = random.choice(NODES)
    cluster.kill_node(node)
    time.sleep(1)
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


def disturbed_run(cluster: SlurmCluster, run: Run, number: int) -> list[str]:
    """Disturb one run once or twice, the kinds in turn; returns what was done, and to what."""
    done = []
    names = list(DISTURBANCES)
    for name in (names[number % len(names)], random.choice(names))[: random.choice((1, 1, 2))]:
        time.sleep(random.uniform(1, _LONGEST_PAUSE))
        queued = cluster.ask("squeue", "-h", "-t", "R", "-o", "%i %j").splitlines()
        if not queued:
            done.append(f"{name}: too late")
            continue
        job, stage = random.choice(queued).split()
        DISTURBANCES[name](cluster, run, job)
        done.append(f"{name} in {stage.partition('-')[0]}")
    return done


def main() -> int:
    """Run, print the table, and say whether all bits are equal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    options = parser.parse_args()
    random.seed(options.seed)
    table = Table("run", "disturbances", "starts", "seconds", "bits")
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "slurm").mkdir()
        with slurm_cluster(folder / "slurm") as cluster:
            path = folder / "undisturbed"
            sections = sections_of_the_world(path)
            first = Run(cluster, path, **sections, world=WORLD).submit()
            first.finish()
            for number in range(options.runs):
                started = time.monotonic()
                run = Run(cluster, folder / f"run-{number}", **sections).submit()
                disturbances = disturbed_run(cluster, run, number)
                run.finish()
                equal = run.contents() == first.contents()
                wrong += not equal
                table.add_row(
                    str(number),
                    ", ".join(disturbances),
                    str(sum(run.log(stage).count(": start ") for stage in run.jobs())),
                    f"{time.monotonic() - started:.0f}",
                    "equal" if equal else "DIFFERENT",
                )
                Console().print(table)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
