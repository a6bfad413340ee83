"""One rank of one training; ``python -m train --help`` says how it is started."""

import gc
import logging
import time
from collections.abc import Callable

from merge.common.errors import (
    STOPPED_EXIT_STATUS,
    USAGE_EXIT_STATUS,
    StoppedOnRequestError,
    end_process,
    run_command,
)
from merge.common.log import start_logging
from train.cli import parse_arguments
from train.job.stopping import StopRequest
from train.recipe import TrainRecipe, load_recipe
from train.zero.ranks import World

_GRACE_SECONDS = 5.0


def main() -> int:
    """Run this rank and return its exit status."""
    stop = StopRequest()
    arguments = parse_arguments()

    def command() -> None:
        recipe = load_recipe(arguments.recipe, arguments.overrides, TrainRecipe)
        world = World.from_environment()
        start_logging(logging.INFO if world.is_main else logging.ERROR)
        # The imports make a million objects that all stay: to look through them for garbage takes
        # a second of the start. The job turns collection on again when they are done.
        gc.disable()
        from train.job.job import derive_patch

        derive_patch(recipe, arguments.role, world, stop)

    return run_command(lambda: _report_once(command, stop))


def _report_once(command: Callable[[], None], stop: StopRequest) -> None:
    """Let only rank 0 report an error that it has too, or that it caused in the others.

    The other ranks delay their report, so that the launcher stops them in the meantime where rank 0
    failed with the same error. A rank that still runs after the delay failed alone, and reports.
    """
    try:
        command()
    except Exception as error:
        # Nothing more will be saved: the launcher's SIGTERM shall end this rank, as it would have.
        stop.forget_signals()
        if World.from_environment().rank:
            if stop.heard:
                stopped = isinstance(error, StoppedOnRequestError)
                raise SystemExit(STOPPED_EXIT_STATUS if stopped else USAGE_EXIT_STATUS) from None
            time.sleep(_GRACE_SECONDS)
        raise


if __name__ == "__main__":
    try:
        status = main()
    except SystemExit as end:
        status = int(end.code or 0)
        if World.from_environment().rank:
            # A launcher that sees this exit would stop rank 0 before rank 0 has reported.
            time.sleep(_GRACE_SECONDS)
    end_process(status)
