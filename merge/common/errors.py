"""The one way in which a command of this project tells its user that something is wrong."""

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import NoReturn, TypeVar

USAGE_EXIT_STATUS = 2
STOPPED_EXIT_STATUS = 75
"""The system's EX_TEMPFAIL: nothing is wrong, and the same command would go on."""
ResultT = TypeVar("ResultT")
_FULL = {errno.ENOSPC, errno.EDQUOT}
"""What the system says where the disk, or the user's share of it, is full."""


class UserError(Exception):
    """An error that the user can fix.

    The message is one line that names the input and the fix; it reaches the terminal without
    a traceback, and the command ends with exit status 2. It is empty where another process has
    said so.
    """


class StoppedOnRequestError(Exception):
    """The command was asked to stop, and has saved where it stands; the message says where.

    It is empty where another process has said so.
    """


def first_line(error: BaseException) -> str:
    """What a library's error says, for a message of one line; its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


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

    It is 0, 2 for a ``UserError``, a full disk or a full GPU, 75 for ``StoppedOnRequestError``, and
    130 for Ctrl-C.
    """
    threading.excepthook = _tell_of_thread
    try:
        command()
    except UserError as error:
        return _tell(str(error))
    except OSError as error:
        # Any library that writes may meet it; those of this project name their file.
        if error.errno not in _FULL:
            raise
        return _tell(
            f"{error.filename or 'a file'}: cannot be written ({error.strerror}); free space and "
            "run again"
        )
    except RuntimeError as error:
        # PyTorch's, by its name: the merger runs without PyTorch.
        if type(error).__name__ != "OutOfMemoryError":
            raise
        figures = ". ".join(str(error).split(". ")[1:3])
        return _tell(
            f"the GPU's memory is full ({figures}); free it of other programs, or take less at "
            "once: a training's micro_batch_size, max_length and ds_config, an evaluation's "
            "batch_tokens; 'python -m launch plan RECIPE' says what they need"
        )
    except StoppedOnRequestError as stop:
        if str(stop):
            sys.stderr.write(f"stopped on request: {stop}; run the same command to continue\n")
        return STOPPED_EXIT_STATUS
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: finished work is kept; run the same command to continue\n")
        return 130
    return 0


def end_process(status: int) -> NoReturn:
    """End this process at once, without the cleanup of Python and its packages.

    That can abort the process with status 134 after all work was done: a thread of gloo does when
    it lets go of its last tensor ("terminate called without an active exception"), and a compiled
    package whose import a stop has cut short ("PyThreadState_Get: the GIL is released").
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _tell(message: str) -> int:
    if message:
        sys.stderr.write(f"error: {' '.join(message.split())}\n")
    return USAGE_EXIT_STATUS


def _tell_of_thread(failure: threading.ExceptHookArgs) -> None:
    """Leave a thread's full disk to who waits for the thread, as TensorBoard's writer has one."""
    if not (isinstance(failure.exc_value, OSError) and failure.exc_value.errno in _FULL):
        threading.__excepthook__(failure)
