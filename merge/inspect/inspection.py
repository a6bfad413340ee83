"""What is in a pair of patches: where importance lies, and what top sets of many rates share.

Three passes over the scores, whatever the number of rates: the first counts leading digits and adds
up rows and columns, the second counts the trailing digits that thresholds need, the third counts
every entry by the smallest top set of either patch that it is in. From that table all overlaps and
difference sets follow, for every a with every b. In memory: a slice, and a tensor's sums of units.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from merge.common.errors import UserError
from merge.common.progress import Progress
from merge.engine.checks import check_inputs
from merge.engine.input_check import check_bits
from merge.engine.inputs import ROLES, FileSource, Kind, MergeInputs
from merge.engine.resources import MergeResources
from merge.engine.selection import NOTHING, Threshold, find_digit, top_count
from merge.engine.slices import share_memory, wide_keys
from merge.engine.tensor_merge import TensorMerger
from merge.io.patch_directory import Role
from merge.kernels import counting as count_kernels
from merge.kernels import inspection as inspection_kernels
from merge.record.merge_json import LETTERS
from merge.settings import MergeSettings, method_of

RATES = (0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Top rates of either patch that are tried, beside those of the settings."""
MULTIPLES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
"""A unit counts where its importance is more than so many times that of its matrix's mean unit."""
_SIDES = ("rows", "columns")
_KINDS = ("safety", "over_safety", "both")


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
        ``units``: see ``count_units``.

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


@dataclass
class _Sums:
    """Sums over one tensor of one patch, fp64."""

    rows: np.ndarray
    columns: np.ndarray


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
        self._slice = share_memory(inputs, settings, MergeResources(threads=1)).slice_values
        self._merger = TensorMerger(inputs, source, settings, self._slice)
        self._units = {side: np.zeros((3, len(MULTIPLES)), np.int64) for side in _SIDES}
        self._unit_counts = dict.fromkeys(_SIDES, 0)

    def run(self) -> dict[str, Any]:
        names = self._inputs.covered
        by_tensor = self._settings.scope == "tensor"
        groups = [(name,) for name in names] if by_tensor else [names]
        tensors: dict[str, dict[str, float]] = {}
        size = len(self._rates) + 1
        total = np.zeros((size, size), np.int64)
        for group in groups:
            for name, levels, importance in self._inspect(group):
                total += levels
                tensors[name] = self._report(name, levels, importance)
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
                **{
                    side: {
                        "units": self._unit_counts[side],
                        **dict(zip(_KINDS, self._units[side].tolist(), strict=True)),
                    }
                    for side in _SIDES
                },
            },
            "tensors": tensors,
        }  # fmt: skip

    def _inspect(self, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray, dict[str, float]]]:
        """Level counts and importance of the tensors whose top sets are taken together."""
        digits: dict[Role, np.ndarray] = {role: np.zeros(1 << 15, np.int64) for role in ROLES}
        importance: dict[str, dict[str, float]] = {}
        for name in names:
            sums = self._add_up(name, digits)
            importance[name] = {
                f"importance_{LETTERS[role]}": float(sums[role].rows.sum()) for role in ROLES
            }
            for side in _SIDES:
                first, second = (getattr(sums[role], side) for role in ROLES)
                self._units[side] += count_units(first, second)
                self._unit_counts[side] += first.size
        by_role = [self._thresholds(role, names, digits[role]) for role in ROLES]
        thresholds = np.array([[each.key for each in row] for row in by_role], np.int64)
        # Used up tensor by tensor: ties go to the first names, and there to the first entries.
        ties = np.array([[each.ties for each in row] for row in by_role], np.int64)
        for name in names:
            size = len(self._rates) + 1
            levels = np.zeros((size, size), np.int64)
            for start, stop in self._slices(name):
                keys = [self._merger.keys(role, name, start, stop) for role in ROLES]
                inspection_kernels.count_levels(*keys, thresholds, ties, levels)
                self._advance(stop - start)
            yield name, levels, importance[name]

    def _add_up(self, name: str, digits: Mapping[Role, np.ndarray]) -> dict[Role, _Sums]:
        """The first pass over a tensor: digits into ``digits``, and the sums of its units."""
        shape = self._inputs.backbone[name].shape
        columns = shape[-1] if len(shape) > 1 else 1
        rows = self._inputs.backbone[name].size // max(columns, 1)
        sums_by_role: dict[Role, _Sums] = {
            role: _Sums(np.zeros(rows), np.zeros(columns)) for role in ROLES
        }
        for start, stop in self._slices(name):
            self._check("backbone", None, name, start, stop)
            for role, sums in sums_by_role.items():
                self._check("delta", role, name, start, stop)
                self._check("importance", role, name, start, stop)
                keys = self._merger.keys(role, name, start, stop)
                count_kernels.count_digits(keys, digits[role])
                inspection_kernels.add_units(keys, start, sums.rows, sums.columns)
                self._advance(stop - start)
        return sums_by_role

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
            for start, stop in self._slices(name):
                keys = self._merger.keys(role, name, start, stop)
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

    def _report(
        self, name: str, levels: np.ndarray, importance: dict[str, float]
    ) -> dict[str, float]:
        """One tensor at the settings' own a and b."""
        sets = set_sizes(levels)
        report: dict[str, float] = {"elements": self._inputs.backbone[name].size, **importance}
        a, b = self._settings.top_safety, self._settings.top_over_safety
        if not a or not b:
            return report
        row, column = self._rates.index(a), self._rates.index(b)
        report["top_S"], report["top_O"] = int(sets["top_S"][row]), int(sets["top_O"][column])
        for key in ("overlap", "jaccard", "difference_S", "difference_O"):
            report[key] = sets[key][row, column].item()
        return report

    def _slices(self, name: str) -> Iterator[tuple[int, int]]:
        size = self._inputs.backbone[name].size
        for start in range(0, size, self._slice):
            yield start, min(start + self._slice, size)


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


def count_units(safety: np.ndarray, over_safety: np.ndarray) -> np.ndarray:
    """How many units matter to the safety patch alone, to the other alone, and to both.

    A unit is a row (an output neuron) or a column (an input channel) of one matrix. It matters to
    a patch where the sum of its scores is more than m times the mean unit's. After the four kinds
    of units of SSAH (arXiv 2410.10862): exclusive to safety, to utility, complex, redundant.

    Args:
        safety: the units' sums of scores, fp64; ``over_safety`` the same.

    Returns:
        int64 [3, multiples]: a column for each m of ``MULTIPLES``.
    """
    counts = np.zeros((3, len(MULTIPLES)), np.int64)
    for column, multiple in enumerate(MULTIPLES):
        first, second = (
            sums > multiple * sums.mean() if sums.size else sums > 0
            for sums in (safety, over_safety)
        )
        kinds = (first & ~second, second & ~first, first & second)
        counts[:, column] = [kind.sum() for kind in kinds]
    return counts
