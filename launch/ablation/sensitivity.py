"""Which merges show how much one setting matters: curves over each, and over retention seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from merge.methods import METHODS
from merge.settings import SCALES, MergeSettings, ScaleRule

TOP_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
SCALE_FACTORS = (0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
RETENTIONS = (0.2, 0.4, 0.6, 0.8, 1.0)
NAMES = {
    "top_safety": "a",
    "top_over_safety": "b",
    "retention": "p",
    "alpha": "alpha",
    "beta": "beta",
}
"""The letters of the paper's formula, by setting; in the order in which they are shown."""


@dataclass(frozen=True)
class Point:
    """One merge of a curve."""

    position: float
    """What is changed: the value itself for the retention, else a factor of the chosen value."""
    value: float
    """The setting's own. A top rate ends at 1, so several positions may have that."""
    settings: MergeSettings


def curves(chosen: MergeSettings) -> dict[str, list[Point]]:
    """For each setting that the method uses some values around the chosen one, all else held."""
    method = METHODS[chosen.method]
    points: dict[str, list[Point]] = {}
    if method.masked:
        for key in ("top_safety", "top_over_safety"):
            points[key] = [_point(chosen, key, factor, most=1.0) for factor in TOP_FACTORS]
    if method.drawn:
        points["retention"] = [
            Point(rate, rate, chosen.model_copy(update={"retention": rate})) for rate in RETENTIONS
        ]
    if chosen.method != "over_safety":
        points["alpha"] = [_point(chosen, "alpha", factor) for factor in SCALE_FACTORS]
    if chosen.method != "safety" and not method.one_factor:
        points["beta"] = [_point(chosen, "beta", factor) for factor in SCALE_FACTORS]
    return points


def _point(chosen: MergeSettings, key: str, factor: float, most: float = float("inf")) -> Point:
    """The chosen merge with one setting, or all scales of one patch, multiplied."""
    keys = SCALES.get(key, (key,))
    if METHODS[chosen.method].one_factor and key == "alpha":
        keys = ("alpha", "beta")
    changes: dict[str, Any] = {each: min(factor * getattr(chosen, each), most) for each in keys}
    value = changes[key]
    if key in SCALES:
        changes["scales"] = tuple(_multiplied(rule, keys, factor) for rule in chosen.scales)
    return Point(factor, value, chosen.model_copy(update=changes))


def _multiplied(rule: ScaleRule, keys: Sequence[str], factor: float) -> ScaleRule:
    """The rule of some layers, whose scales change with those of all others."""
    own = {key: getattr(rule, key) for key in keys}
    return rule.model_copy(
        update={key: factor * scale for key, scale in own.items() if scale is not None}
    )


def retention_seeds(chosen: MergeSettings, count: int) -> list[MergeSettings]:
    """The chosen settings with their own seed and the next ones, and nothing else changed."""
    return [chosen.model_copy(update={"seed": chosen.seed + number}) for number in range(count)]
