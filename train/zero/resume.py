"""Checkpoints of an unfinished training, and how a rerun finds the last whole one."""

import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path

from merge.common.errors import UserError
from merge.common.files import (
    atomic_write_json,
    fsync_directory,
    make_directory,
    read_json,
    remove_folder,
)
from train.zero.collectives import any_over_ranks, sum_over_ranks, wait_for_ranks
from train.zero.ranks import World
from train.zero.snapshot import Snapshot
from train.zero.zero3 import Zero3Model

_MARKER = "complete.json"
_TORCH_WRITER = ("inline_container", "iostream error", "PytorchStreamWriter")
"""One of them is in what torch says when a write of its files fails."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingProgress:
    """Where a training stands; all else follows from the step and the recipe."""

    step: int = 0
    """Optimizer steps taken."""
    stop_reason: str | None = None
    """Why the training has ended, or ``None`` while it runs."""
    guard_losses: list[float] = field(default_factory=list)
    """The last losses that the guards average over."""
    tokens: int = 0
    """Tokens processed so far, without padding."""
    seconds: float = 0.0
    """Seconds spent in training steps so far."""
    importance_samples: int = 0
    """Number of samples whose importance the checkpoint's sums hold; 0 before the training's
    end."""
    looks: list[list[float]] = field(default_factory=list)
    """Looks at the refusal margin (``margin_guard``): step, mean margin, mean probability."""


class Checkpoints:
    """The checkpoints of one training, in a folder of its own beside the patch.

    A checkpoint counts when its marker is there, which is written after everything else; a torn
    one is passed over.

    Args:
        mode: of the folder, from its making on; 0o700 keeps others out.
        every: optimizer steps between two checkpoints; 0 writes none of itself.
        kept: how many of the newest stay.
        identity: of the training, see ``train.patch.identity``.
        earlier: what older versions called the same training.
    """

    def __init__(
        self,
        directory: Path,
        mode: int | None,
        every: int,
        kept: int,
        identity: str,
        world: World,
        earlier: str | None = None,
    ) -> None:
        self._directory = directory
        self._mode = mode
        self._every = every
        self._kept = kept
        self._identity = identity
        self._earlier = earlier
        self._world = world
        self.snapshot = Snapshot(world)
        """Masters of the best state so far, where a guard keeps one; checkpoints hold them."""

    def latest(self) -> Path | None:
        """The newest whole checkpoint that this rank sees.

        Raises:
            UserError: it belongs to other settings.
        """
        whole = self._whole()
        if not whole:
            return None
        marker = read_json(whole[-1] / _MARKER)
        if marker["identity"] not in (self._identity, self._earlier):
            raise UserError(
                f"{self._directory}: holds a checkpoint of other settings; delete that folder, or "
                "choose another output"
            )
        return whole[-1]

    def resume(self, model: Zero3Model) -> TrainingProgress | None:
        """Put the model where the newest whole checkpoint left it (collective).

        Raises:
            UserError: it belongs to other settings, or not every rank sees it.
        """
        return self._load(model, self._agreed(self.latest() if self._world.is_main else None))

    def turn_back(self, model: Zero3Model, step: int) -> TrainingProgress | None:
        """Put the model where the last regular checkpoint before ``step`` left it (collective).

        Those that a stop wrote do not count, so that a patch does not depend on interruptions.

        Raises:
            UserError: not every rank sees it.
        """
        regular = [folder for folder in self._whole() if 0 < self._regular_step(folder) < step]
        return self._load(model, self._agreed(regular[-1] if regular else None))

    def _agreed(self, choice: Path | None) -> Path | None:
        """The main rank's choice, on every rank (collective).

        Others may see another state of a folder over the network.
        """
        numbers = [0.0, 0.0, 0.0]
        if choice is not None and self._world.is_main:
            progress = TrainingProgress(**read_json(choice / _MARKER)["progress"])
            numbers = [1.0, progress.step, progress.importance_samples]
        is_there, step, samples = (int(number) for number in sum_over_ranks(numbers))
        if not is_there:
            return None
        folder = self._directory / _tag(TrainingProgress(step, importance_samples=samples))
        if any_over_ranks(not (folder / _MARKER).is_file()):
            raise UserError(
                f"{folder}: not every process sees this checkpoint, from which the main one "
                "continues; put the run folder on a disk that all nodes share, and run again"
            )
        return folder

    def _load(self, model: Zero3Model, checkpoint: Path | None) -> TrainingProgress | None:
        if checkpoint is None:
            return None
        marker = read_json(checkpoint / _MARKER)
        progress, written_by = TrainingProgress(**marker["progress"]), marker["world_size"]
        if written_by == self._world.size:
            model.load(self._directory, checkpoint.name)
        else:
            model.load_recut(self._directory, checkpoint.name, written_by)
            if progress.importance_samples:
                # DeepSpeed averages over ranks what it adds to these sums.
                model.scale_sums(written_by / self._world.size)
        if progress.stop_reason is None:
            self.snapshot.load(checkpoint, written_by, model)
        logger.info(
            "continuing after step %d from %s of %d processes",
            *(progress.step, checkpoint, written_by),
        )
        return progress

    def is_regular(self, step: int) -> bool:
        """Whether a checkpoint is written after this step without any request."""
        return self._every > 0 and step % self._every == 0

    def is_due(self, progress: TrainingProgress) -> bool:
        """Whether a checkpoint belongs here: every so many steps, and at the training's end."""
        at_end = self._every > 0 and progress.stop_reason is not None
        return at_end or self.is_regular(progress.step)

    def _whole(self) -> list[Path]:
        """All checkpoints with a marker, the oldest first."""
        return sorted(marker.parent for marker in self._directory.glob(f"step-*/{_MARKER}"))

    def _regular_step(self, folder: Path) -> int:
        """The step of a regular checkpoint; 0 for one that a stop or the end wrote."""
        number = folder.name.removeprefix("step-")
        return int(number) if number.isdigit() and self.is_regular(int(number)) else 0

    def save(self, model: Zero3Model, progress: TrainingProgress) -> None:
        """Write a checkpoint, then drop all but the newest (collective).

        The weights of one step are written once: when only the progress is new, as at the
        training's end, the marker alone is.
        """
        tag = _tag(progress)
        # The main rank alone looks: others may not see yet what it has just written.
        marker = self._directory / tag / _MARKER
        if not any_over_ranks(self._world.is_main and marker.is_file()):
            if self._world.is_main:
                make_directory(self._directory, self._mode)
                # A torn one.
                remove_folder(self._directory / tag)
            wait_for_ranks()
            _write(model, self._directory, tag)
            self.snapshot.save(self._directory / tag)
            wait_for_ranks()
        if self._world.is_main:
            content = {
                "identity": self._identity,
                "world_size": self._world.size,
                "progress": asdict(progress),
            }
            atomic_write_json(marker, content)
            older = [folder for folder in self._whole() if folder.name < tag]
            regular = [folder for folder in older if self._regular_step(folder)]
            # Later ones are of the way that a guard has turned back from.
            staying = {
                tag,
                *(folder.name for folder in regular[max(0, len(regular) - self._kept + 1) :]),
            }
            for folder in self._directory.glob("step-*"):
                if folder.name not in staying:
                    _delete(folder)

    def remove(self) -> None:
        """Delete all checkpoints: the patch is there, and they are no longer needed."""
        if self._world.is_main:
            for folder in self._whole():
                _delete(folder)
            remove_folder(self._directory)


def _tag(progress: TrainingProgress) -> str:
    """The name of a checkpoint; names sort as the progress does."""
    tag = f"step-{progress.step:08d}"
    return (
        f"{tag}-importance-{progress.importance_samples:08d}"
        if progress.importance_samples
        else tag
    )


def _delete(checkpoint: Path) -> None:
    """Delete a checkpoint, first its marker: half of one must not count as whole after a kill."""
    try:
        (checkpoint / _MARKER).unlink(missing_ok=True)
        fsync_directory(checkpoint)
    except OSError as error:
        logger.warning("%s: cannot be deleted (%s)", checkpoint, error.strerror)
        return
    remove_folder(checkpoint)


def _write(model: Zero3Model, directory: Path, tag: str) -> None:
    """Write the weights of a checkpoint (collective).

    Raises:
        UserError: the disk is full or cannot be written.
    """
    try:
        model.save(directory, tag)
    except OSError as error:
        reason = error.strerror
    except RuntimeError as error:
        # torch's writer of files has no error of its own, nor the system's reason.
        if not any(words in str(error) for words in _TORCH_WRITER):
            raise
        reason = "the file cannot grow"
    else:
        return
    raise UserError(
        f"{directory / tag}: checkpoint cannot be written ({reason}); free space and run again"
    )
