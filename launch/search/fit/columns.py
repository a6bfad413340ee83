"""Which scales a fit has: a column for every patch, set of entries and unit of tensors.

A unit is what one scale is for: the whole model, a decoder block, a part of a block (its attention,
its MLP), or a tensor. The derivatives by the scales of tensors are measured once; those of larger
units are their sums.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from merge.engine.inputs import ROLES
from merge.io.block_names import block_of
from merge.io.patch_directory import Role
from merge.methods import MethodName
from merge.settings import SETS, MergeSettings, ScaleRule

Grouping = Literal["global", "layers", "modules", "tensors"]
GROUPINGS: tuple[Grouping, ...] = get_args(Grouping)
"""From the fewest scales to the most."""
WHOLE: dict[MethodName, tuple[str, ...]] = {
    "difference": ("own",),
    "intersection": ("shared",),
    "dense": SETS,
}
"""Methods with one scale a patch and unit, and the sets that it is for; ``by_set``: one a set."""
FITTED: frozenset[str] = frozenset({*WHOLE, "by_set"})
"""Methods whose scales can be fitted: what they add to the backbone is linear in these."""
_KEYS: dict[tuple[Role, str], str] = {
    ("safety", "own"): "alpha",
    ("safety", "shared"): "alpha_shared",
    ("safety", "rest"): "alpha_rest",
    ("over_safety", "own"): "beta",
    ("over_safety", "shared"): "beta_shared",
    ("over_safety", "rest"): "beta_rest",
}


@dataclass(frozen=True)
class Column:
    """One scale."""

    unit: str
    """Shell-style pattern of the tensors that it is for."""
    role: Role
    part: str
    """The set of entries, or ``all`` that the method takes."""

    @property
    def key(self) -> str:
        """Its name in a scale rule."""
        return _KEYS[self.role, "own" if self.part == "all" else self.part]


def unit_of(name: str, grouping: Grouping) -> str:
    """The pattern of the unit that a tensor belongs to."""
    block = block_of(name)
    if grouping == "global" or block is None:
        return "*" if grouping == "global" else name
    if grouping == "layers":
        return f"{block[0]}.*"
    if grouping == "modules":
        inside = name[len(block[0]) + 1 :].split(".")
        return f"{block[0]}.{inside[0]}.*" if len(inside) > 1 else name
    return name


def columns_of(
    names: Sequence[str], grouping: Grouping, method: MethodName, roles: Sequence[Role] = ROLES
) -> list[Column]:
    """The columns of a fit, unit by unit in the order of the tensors.

    Args:
        roles: the patches that take part.
    """
    parts = ("all",) if method in WHOLE else SETS
    units = dict.fromkeys(unit_of(name, grouping) for name in names)
    return [Column(unit, role, part) for unit in units for role in roles for part in parts]


def sum_columns(
    derivatives: np.ndarray,
    names: Sequence[str],
    columns: Sequence[Column],
    grouping: Grouping,
    method: MethodName,
) -> np.ndarray:
    """The derivatives by the scales of a fit, from those by the scales of tensors.

    Args:
        derivatives: [questions, tensors, 2 patches, 3 sets], in the order of ``ROLES``, ``SETS``.

    Returns:
        [questions, columns].
    """
    places = {column: place for place, column in enumerate(columns)}
    summed = np.zeros((len(derivatives), len(columns)))
    for tensor, name in enumerate(names):
        unit = unit_of(name, grouping)
        for patch, role in enumerate(ROLES):
            for number, part in enumerate(SETS):
                if method in WHOLE:
                    taken = part in WHOLE[method]
                    place = places.get(Column(unit, role, "all")) if taken else None
                else:
                    place = places.get(Column(unit, role, part))
                if place is not None:
                    summed[:, place] += derivatives[:, tensor, patch, number]
    return summed


def with_scales(base: MergeSettings, scales: Mapping[Column, float]) -> MergeSettings:
    """Merge settings with fitted scales: one rule a unit, and 0 for every scale not among them.

    Raises:
        UserError: the base has a method whose scales cannot be fitted.
    """
    rules: dict[str, dict[str, float]] = {}
    for column, scale in scales.items():
        rules.setdefault(column.unit, {})[column.key] = float(scale)
    everywhere = rules.pop("*", {})
    keys = _KEYS.values() if base.method == "by_set" else ("alpha", "beta")
    values = {**base.model_dump(), **{key: everywhere.get(key, 0.0) for key in keys}}
    values["scales"] = tuple(ScaleRule(pattern=unit, **rule) for unit, rule in rules.items())
    return MergeSettings(**values)
