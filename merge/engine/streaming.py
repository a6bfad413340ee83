"""Merging tensor after tensor, in bounded memory, safe to share between threads."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from merge.engine.inputs import FileSource, MergeInputs
from merge.engine.resources import MergeResources
from merge.engine.slices import share_memory
from merge.engine.tensor_merge import TensorMerger, TensorReport, Thresholds
from merge.io.shard_writer import ShardWriter
from merge.io.tensor_reader import TensorReader
from merge.settings import MergeSettings

_COPY_BYTES = 1 << 20


@dataclass
class StreamingMerge:
    """One merge's inputs and ways of working, for all its tensors."""

    inputs: MergeInputs
    source: FileSource
    merger: TensorMerger
    advance: Callable[[int], object]
    """Told the bytes of backbone that are done."""

    def __post_init__(self) -> None:
        self._backbone = TensorReader(self.inputs.backbone)
        self._covered = set(self.inputs.covered)

    def write_tensor(
        self, writer: ShardWriter, name: str, thresholds: dict[str, Thresholds]
    ) -> TensorReport | None:
        """Fill one tensor of an output file; its report where it is covered.

        Args:
            thresholds: of ``scope=model``, else empty.

        Raises:
            UserError: an input cannot be read any more, or the output cannot be written.
        """
        if name not in self._covered:
            self._copy(writer, name)
            return None

        def write(start: int, before: np.ndarray, after: np.ndarray) -> None:
            writer.write(name, after, start)
            self.advance(before.nbytes)

        chosen = thresholds[name] if thresholds else self.merger.thresholds(name)
        return self.merger.merge(name, chosen, write)

    def _copy(self, writer: ShardWriter, name: str) -> None:
        entry = self.inputs.backbone[name]
        for start in range(0, entry.bytes, _COPY_BYTES):
            size = min(_COPY_BYTES, entry.bytes - start)
            block = self.source.scratch("copy", np.uint8, size)
            self._backbone.read(name, block, start)
            writer.write(name, block, start)
            self.advance(size)

    def close(self) -> None:
        """Close the inputs' files."""
        self.source.close()
        self._backbone.close()


def open_merge(
    inputs: MergeInputs,
    settings: MergeSettings,
    resources: MergeResources,
    advance: Callable[[int], object],
) -> StreamingMerge:
    """Open the inputs' files for merging."""
    source = FileSource(inputs)
    values = share_memory(inputs, settings, resources).slice_values
    merger = TensorMerger(inputs, source, settings, values)
    return StreamingMerge(inputs, source, merger, advance)
