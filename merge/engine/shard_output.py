"""From checked headers to the output's files: top sets first, then every tensor in order.

Importances are read twice, to be hashed, checked and ranked, and to be merged; all else once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from merge.common.pools import run_all
from merge.common.progress import Progress
from merge.engine.conveyor import Conveyor
from merge.engine.input_check import CheckedFile, Stamp
from merge.engine.inputs import ROLES, FileSource, Kind, MergeInputs
from merge.engine.intake import Intake
from merge.engine.journal import Journal
from merge.engine.ranking import Thresholds
from merge.engine.resources import MergeResources
from merge.engine.slices import share_memory
from merge.engine.streaming import OutputFile, StreamingMerge
from merge.engine.tensor_merge import TensorMerger
from merge.io.layout import OutputShard
from merge.io.patch_directory import Role
from merge.settings import MergeSettings


def write_shards(
    out: Path,
    inputs: MergeInputs,
    settings: MergeSettings,
    resources: MergeResources,
    shards: Sequence[OutputShard],
    journal: Journal,
    done: Mapping[str, dict[str, Any]],
    stamps: Mapping[Path, Stamp],
    known: Mapping[Path, CheckedFile],
    pool: ThreadPoolExecutor,
) -> tuple[dict[str, dict[str, Any]], dict[Path, CheckedFile]]:
    """Write the shards that are not there yet, under temporary names, and check all inputs.

    Args:
        done: the journal's record of each shard that is there.
        stamps: of the inputs' files that are used, see ``Intake``.
        known: of an earlier run, see ``Intake``.

    Returns:
        The journal's record of each shard, and what is known of each input file.

    Raises:
        RefusedError: wrong values in the inputs, or in the output.
        UserError: an input cannot be read any more, or the output cannot be written.
    """
    left = [shard for shard in shards if shard.name not in done]
    names = {name for shard in left for name in shard.offsets}
    covered = names.intersection(inputs.covered)
    share = share_memory(inputs, settings, resources)
    with closing(FileSource(inputs, share.kept_bytes)) as source:
        merger = TensorMerger(inputs, source, settings, share.slice_values)
        given: dict[Kind, Iterable[str]] = {"backbone": names, "delta": covered}
        selection = _Selection(inputs, source, merger, settings.scope, covered, pool)
        if merger.ranked is not None and left:
            given[merger.ranked] = selection.names
        intake = Intake(inputs, stamps, known, given, journal.add_input)
        thresholds = selection.run(intake) if left else {}
        with Progress("check", None, "B") as progress:
            intake.read_rest(pool, progress.advance, merger.ranked or "importance")
        records = dict(done)
        if left and not intake.problems_found:
            size = sum(inputs.backbone[name].bytes for name in names)
            with Progress("merge", size, "B") as progress:
                merge = StreamingMerge(inputs, source, merger, intake, thresholds, progress.advance)
                records |= _write(out, left, merge, journal, Conveyor(pool, share.threads))
        with Progress("check", None, "B") as progress:
            intake.read_rest(pool, progress.advance, "backbone", "delta", "importance")
        intake.refuse()
        return records, intake.checked


def _write(
    out: Path,
    shards: Sequence[OutputShard],
    merge: StreamingMerge,
    journal: Journal,
    conveyor: Conveyor,
) -> dict[str, dict[str, Any]]:
    places = {}
    files = [OutputFile(out, shard, merge, conveyor, places, journal) for shard in shards]
    try:
        conveyor.run(piece for file in files for piece in file.pieces())
    finally:
        for file in files:
            file.close()
    return {file.shard.name: file.record for file in files if file.record is not None}


class _Selection:
    """The top sets of all tensors that are merged."""

    def __init__(
        self,
        inputs: MergeInputs,
        source: FileSource,
        merger: TensorMerger,
        scope: str,
        covered: set[str],
        pool: ThreadPoolExecutor,
    ) -> None:
        self._inputs = inputs
        self._source = source
        self._merger = merger
        self._over_model = scope == "model"
        self._pool = pool
        self._merged = covered
        self.names = set(inputs.covered) if self._over_model else covered
        """Tensors that are ranked."""

    def run(self, intake: Intake) -> dict[str, Thresholds]:
        """Rank them, and hand in what is read for it."""
        ranked = self._merger.ranked
        found: dict[str, Thresholds] = {name: {} for name in self.names}
        if ranked is None:
            return found
        values = len(ROLES) * sum(self._inputs.backbone[name].size for name in self.names)
        with Progress("select", values, "values") as progress:

            def seen(role: Role, name: str, start: int, stop: int) -> None:
                bits = self._source.read(ranked, role, name, start, stop)
                intake.take(self._source.entry(ranked, role, name), start, bits)
                if name in self._merged:
                    self._source.keep(ranked, role, name, start, stop, bits)
                progress.advance(stop - start)

            def each(role: Role, work: Callable[[str], object], names: Sequence[str]) -> None:
                groups = self._groups(intake, ranked, role, set(names))
                run_all(self._pool, lambda group: [work(name) for name in group], groups)

            if self._over_model:
                return self._merger.model_thresholds(seen, each)

            def rank(unit: tuple[Role, list[str]]) -> None:
                role, names = unit
                for name in names:
                    found[name][role] = self._merger.own_threshold(role, name, seen)

            units: list[tuple[Role, list[str]]] = [
                (role, group)
                for role in ROLES
                for group in self._groups(intake, ranked, role, self.names)
            ]
            # Both patches' files by turns, as they are of one size mostly.
            run_all(self._pool, rank, sorted(units, key=lambda unit: -self._size(unit[1])))
        return found

    def _size(self, names: Sequence[str]) -> int:
        return sum(self._inputs.backbone[name].size for name in names)

    def _groups(self, intake: Intake, kind: Kind, role: Role, names: set[str]) -> list[list[str]]:
        """The tensors that one thread goes through, in the order of their file where it counts."""
        groups: dict[object, list[str]] = {}
        for name, entry in self._index(kind, role).items():
            if name in names:
                groups.setdefault(entry.file if intake.in_order(entry.file) else name, []).append(
                    name
                )
        return list(groups.values())

    def _index(self, kind: Kind, role: Role) -> Mapping[str, Any]:
        patch = self._inputs.patches[role]
        return patch.delta if kind == "delta" else patch.importance
