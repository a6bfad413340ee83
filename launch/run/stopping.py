"""Stages that are asked to stop: by SIGTERM, or by SIGUSR1, SLURM's warning before a time limit.

A training saves its own state (train/job/stopping.py). Every other stage keeps what it has
finished on disk all the time, so it may end at any point.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from merge.common.errors import STOPPED_EXIT_STATUS, StoppedOnRequestError
from train.job.stopping import STOP_SIGNALS, passed_on

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_PATIENCE_SECONDS = 5.0
_AGAIN_SECONDS = 0.01


class _Stop(BaseException):
    """Ends the block. A ``BaseException``, so that ``except Exception`` does not swallow it."""


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """End the block with a ``StoppedOnRequestError`` when a stop signal arrives."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        end = threading.Timer(_PATIENCE_SECONDS, os._exit, (STOPPED_EXIT_STATUS,))
        end.daemon = True  # Cleanup may hang.
        end.start()
        raise _Stop

    def stop_again(swallowed: "sys.UnraisableHookArgs") -> None:
        if not issubclass(swallowed.exc_type, _Stop):
            return former_hook(swallowed)
        signal.signal(signal.SIGTERM, stop)
        threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return None

    # An exception raised in a callback or finalizer that C calls is lost: raise the signal again.
    former_hook, sys.unraisablehook = sys.unraisablehook, stop_again
    try:
        with _handling(stop):
            yield
    except _Stop:
        raise StoppedOnRequestError("finished work is kept") from None
    finally:
        sys.unraisablehook = former_hook


def run_with_signals(command: Sequence[str]) -> int:
    """Run a command that stops by itself on the signals, Ctrl-C too, which are passed on to it."""
    with subprocess.Popen(command) as process:

        def pass_on(number: int, frame: FrameType | None) -> None:
            process.send_signal(passed_on(number))

        with _handling(pass_on, STOP_SIGNALS):
            return process.wait()


@contextlib.contextmanager
def _handling(
    handler: Callable[[int, FrameType | None], None], signals: Sequence[int] = _SIGNALS
) -> Iterator[None]:
    former = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, before in former.items():
            # After a stop they stay ignored: a second signal must not disturb the cleanup.
            if signal.getsignal(number) is handler:
                signal.signal(number, before)
