"""A training that is asked to stop: by a signal, or a file STOP in its run folder.

SLURM sends SIGUSR1 a while before the time limit (``--signal=USR1@120``) and SIGTERM before it
takes a machine away; Ctrl-C sends SIGINT. The file reaches trainings whose launcher passes no
signal on (deepspeed).
"""

import signal
from pathlib import Path
from types import FrameType

STOP_FILE = "STOP"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def passed_on(number: int) -> int:
    """The signal that a launcher hands to the processes below it.

    A terminal sends Ctrl-C to them as well: they get it as a SIGTERM, and not twice.
    """
    return signal.SIGTERM if number == signal.SIGINT else number


class StopRequest:
    """Hears of the wish to stop, from its making on."""

    def __init__(self) -> None:
        self.heard = False
        """Whether a signal has come to this process."""
        self._former = {number: signal.signal(number, self._hear) for number in STOP_SIGNALS}

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.heard = True

    def forget_signals(self) -> None:
        """Give the signals back their former meaning: there is nothing more to save."""
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def agreed(self, output: Path | None) -> bool:
        """Whether any rank was asked to stop; the same answer on every rank (collective).

        Args:
            output: the run folder on the main rank, which looks for the file; else ``None``.
        """
        # Not at the top: signals must be heard before PyTorch, which takes seconds, is imported.
        from train.zero.collectives import any_over_ranks

        here = self.heard or (output is not None and (output / STOP_FILE).exists())
        return any_over_ranks(here)
