"""Checkpoints of an unfinished training, and how a rerun finds the last whole one."""

import logging
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from merge.errors import UserError
from merge.files import atomic_write_json, make_directory, read_json
from train.collectives import wait_for_ranks
from train.world import World
from train.zero3 import Zero3Model

_MARKER = "complete.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Where a training stands; all else follows from the step and the recipe."""

    step: int = 0
    """Optimizer steps taken."""
    stop_reason: str | None = None
    """Why the training has ended, or ``None`` while it goes on."""
    guard_losses: list[float] = field(default_factory=list)
    """The last losses that the guards average over."""
    tokens: int = 0
    """Run so far, padding left out."""
    seconds: float = 0.0
    """Spent in training steps so far."""


class Checkpoints:
    """The checkpoints of one training, in a folder of its own beside the patch.

    A checkpoint counts when its marker is there, which is written after everything else; a torn
    one is passed over.

    Args:
        mode: of the folder, from its making on; 0o700 keeps others out.
        every: optimizer steps between two checkpoints; 0 writes none.
        identity: of the training, see ``train.identity``.
    """

    def __init__(
        self, directory: Path, mode: int | None, every: int, identity: str, world: World
    ) -> None:
        self._directory = directory
        self._mode = mode
        self._every = every
        self._identity = identity
        self._world = world

    def latest(self) -> Path | None:
        """The newest whole checkpoint.

        Raises:
            UserError: it belongs to other settings or to another number of processes.
        """
        whole = sorted(self._directory.glob(f"step-*/{_MARKER}"))
        if not whole:
            return None
        marker = read_json(whole[-1])
        if marker["identity"] != self._identity:
            raise UserError(
                f"{self._directory}: holds a checkpoint of other settings; delete that folder, or "
                "choose another output"
            )
        if marker["world_size"] != self._world.size:
            raise UserError(
                f"{self._directory}: its checkpoint was written by {marker['world_size']} "
                f"processes, and this training has {self._world.size}; start as many, or delete "
                "that folder"
            )
        return whole[-1].parent

    def resume(self, model: Zero3Model) -> Progress | None:
        """Put the model where the newest whole checkpoint left it (collective)."""
        checkpoint = self.latest()
        if checkpoint is None:
            return None
        model.load(self._directory, checkpoint.name)
        progress = Progress(**read_json(checkpoint / _MARKER)["progress"])
        logger.info("continuing after step %d from %s", progress.step, checkpoint)
        return progress

    def is_due(self, progress: Progress) -> bool:
        """Whether a checkpoint belongs here: every so many steps, and at the training's end."""
        if not self._every:
            return False
        return progress.stop_reason is not None or progress.step % self._every == 0

    def save(self, model: Zero3Model, progress: Progress) -> None:
        """Write a checkpoint, then drop the older ones (collective)."""
        tag = f"step-{progress.step:08d}"
        if self._world.is_main:
            make_directory(self._directory, self._mode)
            # A torn one of the same step, or the same step before its end was known.
            shutil.rmtree(self._directory / tag, ignore_errors=True)
        wait_for_ranks()
        model.save(self._directory, tag)
        wait_for_ranks()
        if self._world.is_main:
            marker = {
                "identity": self._identity,
                "world_size": self._world.size,
                "progress": asdict(progress),
            }
            atomic_write_json(self._directory / tag / _MARKER, marker)
            for other in self._directory.glob("step-*"):
                if other.name != tag:
                    shutil.rmtree(other, ignore_errors=True)

    def remove(self) -> None:
        """Delete all checkpoints: the patch is there, and they are no longer needed."""
        if self._world.is_main:
            shutil.rmtree(self._directory, ignore_errors=True)
