"""One tensor's merge: from top sets to patched bits. The same for files and for memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from merge.methods import METHODS, USES_IMPORTANCE
from merge.numbers import round_to, to_float32
from merge.patch_directory import Role
from merge.recipe import MergeSettings, Score
from merge.retention import drop_unretained, retention_key
from merge.selection import Threshold, find_threshold, mark_top, top_count


class Tensors(Protocol):
    """Where a merge gets its tensors from: files, or memory."""

    @property
    def covered(self) -> tuple[str, ...]: ...

    def bits(self, name: str) -> np.ndarray: ...

    def delta(self, role: Role, name: str) -> np.ndarray: ...

    def score_bits(
        self, role: Role, name: str, score: Score, bits: np.ndarray, delta: np.ndarray
    ) -> np.ndarray: ...


@dataclass(frozen=True)
class ModelSelection:
    """The threshold of one patch over all covered tensors, and where its ties begin in each."""

    threshold: Threshold
    ties_before: dict[str, int]


Selection = dict[Role, ModelSelection]


@dataclass(frozen=True)
class TensorReport:
    """What a merge did to one tensor: counts of entries, and Euclidean norms of the deltas."""

    elements: int
    top_S: int  # noqa: N815 - the key in merge.json
    top_O: int  # noqa: N815
    overlap: int
    kept_S: int  # noqa: N815
    kept_O: int  # noqa: N815
    changed: int
    """Entries whose bits differ from the backbone's."""
    erased_S: int  # noqa: N815
    """Kept entries of the safety patch that rounding to the backbone's dtype gave back."""
    erased_O: int  # noqa: N815
    norm_S: float  # noqa: N815
    norm_O: float  # noqa: N815


def select_over_model(tensors: Tensors, settings: MergeSettings) -> Selection | None:
    """The top sets of ``scope=model``; None where each tensor has its own, or none are needed.

    Reads every covered tensor three times and holds one at a time.
    """
    if settings.scope == "tensor" or settings.method not in USES_IMPORTANCE:
        return None
    return {
        "safety": _select(tensors, settings, "safety", settings.top_safety),
        "over_safety": _select(tensors, settings, "over_safety", settings.top_over_safety),
    }


def _select(tensors: Tensors, settings: MergeSettings, role: Role, rate: float) -> ModelSelection:
    sizes: dict[str, int] = {}

    def parts() -> Iterator[np.ndarray]:
        for name in tensors.covered:
            bits = tensors.bits(name)
            sizes[name] = bits.size
            yield tensors.score_bits(role, name, settings.score, bits, tensors.delta(role, name))

    elements = sum(tensors.bits(name).size for name in tensors.covered)
    threshold = find_threshold(parts, top_count(rate, elements))
    ties_before: dict[str, int] = {}
    ties = 0
    for name, part in zip(tensors.covered, parts(), strict=True):
        ties_before[name] = ties
        ties += int(np.count_nonzero(part == threshold.bits))
    return ModelSelection(threshold, ties_before)


def patch_tensor(
    tensors: Tensors, name: str, settings: MergeSettings, selection: Selection | None
) -> tuple[np.ndarray, TensorReport]:
    """Merge one covered tensor.

    theta = round(theta_0 + alpha x delta_S) on the safety patch's kept entries, the same with beta
    and delta_O on the other's, in float32, each product rounded before its sum; all other entries
    keep their bits.

    Returns:
        The patched tensor, flat, in the file's dtype; and the counts.
    """
    bits = tensors.bits(name)
    deltas: dict[Role, np.ndarray] = {
        "safety": tensors.delta("safety", name),
        "over_safety": tensors.delta("over_safety", name),
    }
    tops: dict[Role, np.ndarray] = {}
    rates: dict[Role, float] = {
        "safety": settings.top_safety,
        "over_safety": settings.top_over_safety,
    }
    for role, rate in rates.items():
        if settings.method in USES_IMPORTANCE:
            score = tensors.score_bits(role, name, settings.score, bits, deltas[role])
            tops[role] = _top(score, rate, selection[role] if selection else None, name)
        else:
            tops[role] = np.ones(bits.shape, np.bool_)
    kept: dict[Role, np.ndarray] = {}
    kept["safety"], kept["over_safety"] = METHODS[settings.method](
        tops["safety"], tops["over_safety"]
    )
    for role, mask in kept.items():
        drop_unretained(mask, retention_key(settings.seed, role, name), settings.retention)
    patched, erased = _write_back(bits, deltas, kept, settings)
    report = TensorReport(
        elements=bits.size,
        top_S=_count(tops["safety"]),
        top_O=_count(tops["over_safety"]),
        overlap=_count(tops["safety"] & tops["over_safety"]),
        kept_S=_count(kept["safety"]),
        kept_O=_count(kept["over_safety"]),
        changed=_count(patched != bits),
        erased_S=erased["safety"],
        erased_O=erased["over_safety"],
        norm_S=_norm(deltas["safety"]),
        norm_O=_norm(deltas["over_safety"]),
    )
    return patched, report


def _top(score: np.ndarray, rate: float, selection: ModelSelection | None, name: str) -> np.ndarray:
    if selection is not None:
        return mark_top(score, selection.threshold, selection.ties_before[name])[0]
    return mark_top(score, find_threshold(lambda: [score], top_count(rate, score.size)))[0]


def _write_back(
    bits: np.ndarray,
    deltas: dict[Role, np.ndarray],
    kept: dict[Role, np.ndarray],
    settings: MergeSettings,
) -> tuple[np.ndarray, dict[Role, int]]:
    scale = settings.retention if settings.rescale and settings.retention > 0 else 1.0
    total = to_float32(bits)
    if total is bits:
        total = bits.copy()
    weights: dict[Role, float] = {"safety": settings.alpha, "over_safety": settings.beta}
    for role, weight in weights.items():
        mask = kept[role]
        total[mask] += np.float32(weight / scale) * deltas[role][mask]
    written = kept["safety"] | kept["over_safety"]
    patched = np.where(written, round_to(total, bits.dtype), bits)
    erased: dict[Role, int] = {
        role: _count((patched == bits) & mask & (deltas[role] != 0)) for role, mask in kept.items()
    }
    return patched, erased


def _count(mask: np.ndarray) -> int:
    return int(np.count_nonzero(mask))


def _norm(delta: np.ndarray) -> float:
    return float(np.sqrt(np.square(delta, dtype=np.float64).sum()))
