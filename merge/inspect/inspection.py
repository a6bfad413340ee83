"""What is in a pair of patches: where importance lies, and what top sets of many rates share.

Three passes over the scores, whatever the number of rates: the first counts leading digits and adds
up rows and columns, the second counts the trailing digits that thresholds need, the third counts
every entry by the smallest top set of either patch that it is in. From that table all overlaps and
difference sets follow, for every a with every b. Top sets of one tensor each are counted in as many
threads as a merge has. In memory: a slice in each thread, and the sums of a tensor's units.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from merge.common.errors import UserError
from merge.common.pools import run_all
from merge.common.progress import Progress
from merge.engine.checks import check_inputs
from merge.engine.input_check import check_bits
from merge.engine.inputs import ROLES, FileSource, Kind, MergeInputs
from merge.engine.ranking import Ranker
from merge.engine.resources import MergeResources
from merge.engine.selection import NOTHING, Threshold, find_digit, top_count
from merge.engine.slices import share_memory, wide_keys
from merge.inspect.units import MULTIPLES, TensorSums, UnitSums, add_up, count_over_tensors
from merge.io.patch_directory import Role
from merge.kernels import counting as count_kernels
from merge.kernels import inspection as inspection_kernels
from merge.record.merge_json import LETTERS
from merge.settings import MergeSettings, method_of

RATES = (0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Top rates of either patch that are tried, beside those of the settings."""


def inspect(
    backbone: Path, safety: Path, over_safety: Path, settings: MergeSettings
) -> dict[str, Any]:
    """Look into two patches of one backbone; reads every covered score, and writes nothing.

    Args:
        settings: score, scope and covered tensors; a and b join ``RATES``.

    Returns:
        JSON values. ``rates``; ``top_S``, ``top_O``: sizes of the top sets, a number a rate;
        ``overlap``, ``jaccard``, ``difference_S``, ``difference_O``: a row for each a, a column
        for each b; ``tensors``: of each the importance and the sets at the settings' a and b;
        ``units``: see ``merge.inspect.units``.

    Raises:
        UserError: inputs that do not fit each other, or wrong values in them.
    """
    # The score of the paper's method, whatever the recipe merges with.
    settings = settings.model_copy(update={"method": "difference"})
    inputs = check_inputs(backbone, safety, over_safety, settings)
    rates = sorted({*RATES, settings.top_safety, settings.top_over_safety} - {0.0})
    values = sum(inputs.backbone[name].size for name in inputs.covered)
    with (
        closing(FileSource(inputs)) as source,
        # Two passes over either patch, and one over both.
        Progress("inspect", 5 * values, "values") as progress,
    ):
        return _Inspection(inputs, source, settings, rates, progress.advance).run()


@dataclass(frozen=True)
class _Look:
    """What was seen of one tensor."""

    name: str
    levels: np.ndarray
    """See ``set_sizes``."""
    sums: TensorSums


class _Inspection:
    def __init__(
        self,
        inputs: MergeInputs,
        source: FileSource,
        settings: MergeSettings,
        rates: Sequence[float],
        advance: Callable[[int], object],
    ) -> None:
        self._inputs = inputs
        self._source = source
        self._settings = settings
        self._rates = rates
        self._advance = advance
        method = method_of(settings)
        self._wide = {role: wide_keys(inputs, role, method) for role in ROLES}
        share = share_memory(inputs, settings, MergeResources())
        self._threads = share.threads
        self._ranker = Ranker(inputs, source, settings, share.slice_values)

    def run(self) -> dict[str, Any]:
        names = self._inputs.covered
        by_tensor = self._settings.scope == "tensor"
        groups = [(name,) for name in names] if by_tensor else [names]
        with ThreadPoolExecutor(self._threads) as pool:
            looks = [look for part in run_all(pool, self._inspect, groups, True) for look in part]
        total = np.sum([look.levels for look in looks], axis=0)
        sets = set_sizes(total)
        return {
            "format": 1,
            "settings": self._settings.model_dump(
                mode="json",
                include={
                    "score", "scope", "top_safety", "top_over_safety", "include", "exclude"
                },
            ),
            "elements": int(total.sum()),
            "rates": self._rates,
            **{key: matrix.tolist() for key, matrix in sets.items()},
            "units": {
                "multiples": list(MULTIPLES),
                **count_over_tensors([look.sums for look in looks]),
            },
            "tensors": {look.name: self._report(look) for look in looks},
        }  # fmt: skip

    def _inspect(self, names: Sequence[str]) -> list[_Look]:
        """Look at the tensors whose top sets are taken together."""
        digits: dict[Role, np.ndarray] = {role: np.zeros(1 << 15, np.int64) for role in ROLES}
        sums = {name: self._add_up(name, digits) for name in names}
        by_role = [self._thresholds(role, names, digits[role]) for role in ROLES]
        thresholds = np.array([[each.key for each in row] for row in by_role], np.int64)
        # Used up tensor by tensor: ties go to the first names, and there to the first entries.
        ties = np.array([[each.ties for each in row] for row in by_role], np.int64)
        shifts = [16 if self._wide[role] else 0 for role in ROLES]
        decided = np.stack(
            [levels_of_digits(*each) for each in zip(thresholds, shifts, strict=True)]
        )
        looks = []
        for name in names:
            size = len(self._rates) + 1
            levels = np.zeros((inspection_kernels.COPIES, size, size), np.int64)
            for start, stop in self._ranker.slices(name):
                keys = [self._ranker.keys(role, name, start, stop) for role in ROLES]
                inspection_kernels.count_levels(*keys, decided, thresholds, ties, levels)
                self._advance(stop - start)
            looks.append(_Look(name, levels.sum(0), sums[name]))
        return looks

    def _add_up(self, name: str, digits: Mapping[Role, np.ndarray]) -> TensorSums:
        """The first pass over a tensor: digits into ``digits``, and what its units add up to."""
        shape = self._inputs.backbone[name].shape
        columns = shape[-1] if len(shape) > 1 else 1
        rows = self._inputs.backbone[name].size // max(columns, 1)
        unit_sums: dict[Role, UnitSums] = {
            role: UnitSums(np.zeros(rows), np.zeros(columns)) for role in ROLES
        }
        lanes = np.zeros(inspection_kernels.LANES)
        for start, stop in self._ranker.slices(name):
            self._check("backbone", None, name, start, stop)
            for role, sums in unit_sums.items():
                self._check("delta", role, name, start, stop)
                self._check("importance", role, name, start, stop)
                keys = self._ranker.keys(role, name, start, stop)
                count_kernels.count_digits(keys, digits[role])
                inspection_kernels.add_units(keys, start, sums.rows, sums.columns, lanes)
                self._advance(stop - start)
        return add_up(unit_sums)

    def _check(self, kind: Kind, role: Role | None, name: str, start: int, stop: int) -> None:
        entry = self._source.entry(kind, role, name)
        bits = self._source.read(kind, role, name, start, stop)
        problem = check_bits(bits, entry.dtype, kind)
        if problem is not None:
            raise UserError(f"{entry.file}: tensor '{name}' holds {problem}")

    def _thresholds(self, role: Role, names: Sequence[str], digits: np.ndarray) -> list[Threshold]:
        """Thresholds of every rate's top set: the second pass, for 32-bit keys."""
        size = sum(self._inputs.backbone[name].size for name in names)
        counts = [top_count(rate, size) for rate in self._rates]
        leading = [find_digit(digits, count) if count else None for count in counts]
        if not self._wide[role]:
            self._advance(size)
            return [NOTHING if place is None else Threshold(*place) for place in leading]
        highs = sorted({place[0] for place in leading if place is not None})
        slots = np.full(1 << 15, -1, np.int64)
        slots[highs] = range(len(highs))
        trailing = np.zeros((len(highs), 1 << 16), np.int64)
        for name in names:
            for start, stop in self._ranker.slices(name):
                keys = self._ranker.keys(role, name, start, stop)
                inspection_kernels.count_chosen_digits(keys, slots, trailing)
                self._advance(stop - start)
        result = []
        for place in leading:
            if place is None:
                result.append(NOTHING)
                continue
            high, rest = place
            low, ties = find_digit(trailing[slots[high]], rest)
            result.append(Threshold(high << 16 | low, ties))
        return result

    def _report(self, look: _Look) -> dict[str, float]:
        """One tensor at the settings' own a and b."""
        sets = set_sizes(look.levels)
        report: dict[str, float] = {"elements": self._inputs.backbone[look.name].size}
        for role, importance in look.sums.importance.items():
            report[f"importance_{LETTERS[role]}"] = importance
        a, b = self._settings.top_safety, self._settings.top_over_safety
        if not a or not b:
            return report
        row, column = self._rates.index(a), self._rates.index(b)
        report["top_S"], report["top_O"] = int(sets["top_S"][row]), int(sets["top_O"][column])
        for key in ("overlap", "jaccard", "difference_S", "difference_O"):
            report[key] = sets[key][row, column].item()
        return report


def levels_of_digits(thresholds: np.ndarray, shift: int) -> np.ndarray:
    """The smallest top set of the keys of every leading digit.

    Args:
        thresholds: int64, the keys of nested top sets from the smallest on.
        shift: bits of a key below its leading digit.

    Returns:
        Uint8 of 32,768, see ``merge.kernels.inspection.count_levels``.
    """
    digits = np.arange(1 << 15)
    leading = thresholds >> shift
    levels = (leading[:, None] > digits).sum(0).astype(np.uint8)
    levels[leading[leading < digits.size]] = inspection_kernels.UNDECIDED
    return levels


def set_sizes(levels: np.ndarray) -> dict[str, np.ndarray]:
    """Sizes of top sets, overlaps and difference sets, for every a (rows) and b (columns).

    Args:
        levels: int64 [sets + 1, sets + 1], entries by the smallest top set of either patch that
            they are in, the last row and column for none.
    """
    within = levels.cumsum(0).cumsum(1)
    overlap, top_s, top_o = within[:-1, :-1], within[:-1, -1], within[-1, :-1]
    either = top_s[:, None] + top_o[None, :] - overlap
    return {
        "top_S": top_s,
        "top_O": top_o,
        "overlap": overlap,
        "jaccard": overlap / np.maximum(either, 1),
        "difference_S": top_s[:, None] - overlap,
        "difference_O": top_o[None, :] - overlap,
    }
