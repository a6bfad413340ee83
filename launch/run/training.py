"""One training as processes of this machine, and what its end means."""

import signal
from pathlib import Path

from launch.run.stopping import run_with_signals
from merge.common.errors import (
    STOPPED_EXIT_STATUS,
    USAGE_EXIT_STATUS,
    StoppedOnRequestError,
    UserError,
)
from merge.io.patch_directory import Role
from train.launcher import default_processes, training_command

_KILLED = (128 + signal.SIGKILL, -signal.SIGKILL)
"""Statuses of a killed rank, as the launcher reports it, and of a killed launcher."""


def train_patch(recipe: Path, role: Role) -> None:
    """Train one patch of a run folder's recipe, from where an earlier attempt has left it.

    Raises:
        UserError: the training has failed; where it has said why, the error is empty.
        StoppedOnRequestError: a signal asked for it.
    """
    status = run_with_signals(training_command(default_processes(), recipe, role))
    if status == STOPPED_EXIT_STATUS:
        # The training has said where it is saved.
        raise StoppedOnRequestError
    if status == USAGE_EXIT_STATUS:
        raise UserError
    if status in _KILLED:
        raise UserError(
            f"training of the {role} patch was killed, as the kernel does when memory is full; "
            f"lower {role}.micro_batch_size or max_length, or give it more memory, and run the "
            "same command again"
        )
    if status:
        raise UserError(
            f"training of the {role} patch ended with status {status}, for the reason above; "
            "run the same command again when it is fixed"
        )
