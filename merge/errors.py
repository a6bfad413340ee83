"""The one way in which a command of this project tells its user that something is wrong."""

import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

USAGE_EXIT_STATUS = 2
STOPPED_EXIT_STATUS = 75
"""The system's EX_TEMPFAIL: nothing is wrong, and the same command would go on."""
ResultT = TypeVar("ResultT")


class UserError(Exception):
    """An error that the user can mend.

    The message is one line that names the input and the mend; it reaches the terminal without
    a traceback, and the command ends with exit status 2.
    """


class StoppedOnRequestError(Exception):
    """The command was asked to stop, and has saved where it stands; the message says where."""


def collect(attempts: Iterable[Callable[[], ResultT]]) -> list[ResultT]:
    """The results of all attempts, in order.

    Raises:
        UserError: of all that failed, in one line.
    """
    results: list[ResultT] = []
    problems: dict[str, None] = {}
    for attempt in attempts:
        try:
            results.append(attempt())
        except UserError as error:
            problems[str(error)] = None
    if problems:
        raise UserError("; ".join(problems))
    return results


def run_command(command: Callable[[], None]) -> int:
    """Run a command and return its exit status.

    It is 0, 2 for a ``UserError``, 75 for ``StoppedOnRequestError``, and 130 for Ctrl-C.
    """
    try:
        command()
    except UserError as error:
        message = " ".join(str(error).split())
        sys.stderr.write(f"error: {message}\n")
        return USAGE_EXIT_STATUS
    except StoppedOnRequestError as stop:
        sys.stderr.write(f"stopped on request: {stop}; run the same command to continue\n")
        return STOPPED_EXIT_STATUS
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: finished work is kept; run the same command to continue\n")
        return 130
    return 0
