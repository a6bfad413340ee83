"""Start one training as several processes of this machine.

    python -m train.launcher [--processes N] RECIPE [key=value ...] --role safety|over_safety

It does for one machine what the deepspeed launcher and torchrun do, starts in a tenth of a second
rather than importing PyTorch first, and hands on the exit status of the rank that failed; torchrun
turns each into 1, with a traceback of its own. Over several machines use those.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from merge.common.errors import STOPPED_EXIT_STATUS
from merge.common.provenance import add_version
from merge.io.patch_directory import Role
from train.cli import parse_arguments
from train.job.stopping import STOP_SIGNALS, passed_on
from train.zero.ranks import free_port

_POLL_SECONDS = 0.05
_KILL_AFTER_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1
_RETURNED_BYTES = 1 << 20
"""glibc gives larger blocks back to the system as soon as they are free. By itself it keeps those
of up to 32 MiB: a CPU rank of a 174M-parameter model then peaked at 4.05 GB, not 2.84 GB."""


def training_command(
    processes: int, recipe: Path, role: Role, overrides: Sequence[str] = ()
) -> list[str]:
    """The command line that trains one patch with so many processes on this machine."""
    return [
        sys.executable,
        "-m",
        "train.launcher",
        f"--processes={processes}",
        str(recipe),
        *overrides,
        f"--role={role}",
    ]


def default_processes() -> int:
    """One process a GPU; one with all threads on a machine without GPUs."""
    import torch

    return torch.cuda.device_count() or 1


def run_ranks(processes: int, arguments: Sequence[str]) -> int:
    """Run ``python -m train ARGUMENTS`` as so many ranks; when one fails, end the others.

    SIGTERM, SIGUSR1 and Ctrl-C are passed on: the ranks save where they stand and end with 75.

    Returns:
        0, or the exit status of the first rank that failed (128 + N for signal N).
    """
    environment = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "MALLOC_MMAP_THRESHOLD_": str(_RETURNED_BYTES),
        **os.environ,
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "train", *arguments],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            preexec_fn=_begin_rank,
        )
        for rank in range(processes)
    ]

    asked: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        asked.append(passed_on(number))
        for rank in ranks:
            rank.send_signal(passed_on(number))

    for number in STOP_SIGNALS:
        signal.signal(number, pass_on)
    try:
        while True:
            states = [rank.poll() for rank in ranks]
            failed = [state for state in states if state]
            if failed and -failed[0] in asked:
                sys.stderr.write("stopped on request: the training had not begun yet\n")
                return STOPPED_EXIT_STATUS
            if failed:
                return failed[0] if failed[0] > 0 else 128 - failed[0]
            if None not in states:
                return 0
            time.sleep(_POLL_SECONDS)
    finally:
        _end(ranks)


def _end(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """End what still runs: politely first, then by force."""
    for rank in ranks:
        rank.terminate()
    deadline = time.monotonic() + _KILL_AFTER_SECONDS
    for rank in ranks:
        with contextlib.suppress(subprocess.TimeoutExpired):
            rank.wait(max(0.0, deadline - time.monotonic()))
        rank.kill()
        rank.wait()


def _begin_rank() -> None:
    """Run in the child: a launcher that is killed leaves no orphans behind.

    Ctrl-C is the launcher's to hand on: it must not meet a rank in the midst of its imports.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> int:
    """Parse the launcher's own option and hand the rest to the ranks."""
    parser = argparse.ArgumentParser(
        prog="train.launcher",
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_version(parser)
    parser.add_argument("--processes", type=int, help="default: one a GPU, or 1 without GPUs")
    options, rest = parser.parse_known_args()
    parse_arguments(rest)  # a mistake is reported here once, rather than by every rank
    try:
        return run_ranks(options.processes or default_processes(), rest)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
