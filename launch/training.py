"""One training as processes of this machine, and what its end means."""

from pathlib import Path

from launch.stopping import run_with_signals
from merge.errors import STOPPED_EXIT_STATUS, StoppedOnRequestError, UserError
from merge.patch_directory import Role
from train.launcher import default_processes, training_command


def train_patch(recipe: Path, role: Role) -> None:
    """Train one patch of a run folder's recipe, from where an earlier attempt has left it.

    Raises:
        UserError: the training has failed; it has said why.
        StoppedOnRequestError: a signal asked for it.
    """
    status = run_with_signals(training_command(default_processes(), recipe, role))
    if status == STOPPED_EXIT_STATUS:
        # The training has said where it is saved.
        raise StoppedOnRequestError
    if status:
        raise UserError(
            f"training of the {role} patch ended with status {status}, for the reason above; "
            "mend it and run the same command again"
        )
