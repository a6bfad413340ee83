"""One rank of a training under SLURM: what srun starts, once for each process.

    srun python -m launch.slurm.rank RUN/recipe.yaml --role safety|over_safety

The ranks find one another by SLURM's own variables and the address of the first host. Rank 0 writes
to the job's log, every other to RUN/jobs/STAGE-NODE-rankN.log.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

# Before PyTorch is imported; see launch/__main__.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from launch.slurm.queue.job_files import FILES_VARIABLE, JOBS_FOLDER
from merge.common.errors import STOPPED_EXIT_STATUS, end_process
from train.__main__ import main, parse_arguments


def rank_environment(slurm: Mapping[str, str]) -> dict[str, str]:
    """What torch.distributed wants to know, from the variables of a job step's task."""
    size, nodes = slurm["SLURM_STEP_NUM_TASKS"], slurm["SLURM_STEP_NUM_NODES"]
    return {
        "RANK": slurm["SLURM_PROCID"],
        "WORLD_SIZE": size,
        "LOCAL_RANK": slurm["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(int(size) // int(nodes)),
    }


def step_status(rank: int, status: int) -> int:
    """What srun gets to see of a rank's exit status.

    srun kills the other ranks as soon as one fails. A stop on request is no failure: the main rank,
    which may still be writing, decides when it is over.
    """
    return 0 if status == STOPPED_EXIT_STATUS and rank else status


def run_rank() -> int:
    """Train; returns the status for srun, and leaves word of the first rank that failed."""
    os.environ.update(rank_environment(os.environ))
    rank, node = int(os.environ["RANK"]), os.environ.get("SLURMD_NODENAME", "?")
    arguments = parse_arguments()
    folder = Path(arguments.recipe).resolve().parent / JOBS_FOLDER
    files = os.environ.get(FILES_VARIABLE, f"{folder}/{arguments.role}")
    console = os.dup(sys.stderr.fileno())
    log = Path(f"{files}-{node}-rank{rank}.log")
    if rank:
        _write_to(log)
    is_cause = True
    try:
        status = main()
    except SystemExit as end:
        # It failed or stopped after it had been told to end, as srun tells all when one has failed.
        status = STOPPED_EXIT_STATUS if end.code == STOPPED_EXIT_STATUS else 1
        is_cause = False
    except Exception:
        traceback.print_exc()
        status = 1
    if status not in (0, STOPPED_EXIT_STATUS):
        reason = f": {_last_line(log)} (all of it in {log})" if rank else ""
        words = f"rank {rank} on {node} ended with status {status}{reason}\n"
        os.write(console, words.encode())
    seen = step_status(rank, status)
    if seen and (is_cause or rank == 0):
        _record_first_failure(Path(f"{files}.ended"), f"{seen} rank {rank} on {node}\n")
    return seen


def _write_to(log: Path) -> None:
    """Send all that this process says to a file, its libraries' words included."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _record_first_failure(file: Path, words: str) -> None:
    """Write the file unless an earlier failure did. On a full disk none is written, and srun's
    status counts."""
    with contextlib.suppress(OSError):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(descriptor, words.encode())
        os.close(descriptor)


if __name__ == "__main__":
    end_process(run_rank())
