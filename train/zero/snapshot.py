"""The best state of a training: a copy of its fp32 masters, which it can go back to."""

from contextlib import ExitStack
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from train.zero.ranks import World
from train.zero.recut import cut
from train.zero.zero3 import Zero3Model


class Snapshot:
    """This rank's partitions of the masters in host memory; empty at first.

    It is part of what a checkpoint keeps: of the steps since it was taken, nothing could bring it
    back. Memory: 4 bytes a parameter, over all ranks.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._masters: dict[str, Tensor] = {}

    def take(self, model: Zero3Model) -> None:
        """Copy the model's present state, in place of what was here."""
        # The old copy first, or both would be in memory.
        self._masters = {}
        self._masters = model.copy_masters()

    def restore(self, model: Zero3Model) -> None:
        """Put the model back to the copied state, and let the copy go (collective)."""
        model.put_masters(self._masters)
        self.clear()

    def clear(self) -> None:
        """Free the copy."""
        self._masters = {}

    def save(self, folder: Path) -> None:
        """Write the copy into a checkpoint's folder, where there is one."""
        if self._masters:
            save_file(self._masters, _file(folder, self._world.rank))

    def load(self, folder: Path, written_by: int, model: Zero3Model) -> None:
        """Load the copy that any number of ranks has saved; a checkpoint may hold none."""
        self.clear()
        if not _file(folder, 0).is_file():
            return
        with ExitStack() as stack:
            files = [
                stack.enter_context(safe_open(_file(folder, rank), framework="pt"))
                for rank in range(written_by)
            ]
            for name, size in model.sizes.items():
                parts = [file.get_slice(name) for file in files]
                self._masters[name] = cut(parts, 0, size, self._world.rank, self._world.size)


def _file(folder: Path, rank: int) -> Path:
    return folder / f"best_rank_{rank}.safetensors"
