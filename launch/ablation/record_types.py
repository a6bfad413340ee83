"""The content of ablation.json, and of what it is made of, as types."""

from typing import Any, TypedDict

from eval.statistics.rates import Interval


class VariantRate(Interval, total=False):
    """A rate of one run, with ``n``, or the mean of several, with their values and deviation.

    Attributes:
        n: how many cases were counted.
        deviation: standard deviation of ``values``.
    """

    n: int
    deviation: float
    values: list[float]


AxisRates = dict[str, VariantRate]
"""The rates of one model, by axis."""


class TrainingRecord(TypedDict):
    """How the training of a whole patch ended, as its patch.json says; ``None`` where it does not.

    Attributes:
        training_seconds: without the loading of the model.
    """

    steps: int | None
    stop_reason: str | None
    training_seconds: float | None


class _Measured(TypedDict):
    axes: AxisRates


class VariantOutcome(_Measured, total=False):
    """What the evaluation of one variant gives: a line of outcomes.jsonl.

    Attributes:
        training: of a whole patch.
    """

    training: TrainingRecord


class _Row(_Measured):
    name: str
    title: str
    how: str


class VariantRow(_Row, total=False):
    """A row of the table; see ``launch.run.variant.Variant``.

    Attributes:
        training: of a whole patch, in the record of one run.
        trainings: the same in the record of several runs.
    """

    training: TrainingRecord
    trainings: list[TrainingRecord]


class CurvePoint(TypedDict):
    """One merge of a curve; see ``launch.ablation.sensitivity.Point``."""

    position: float
    values: list[float]
    """The setting's own value in each run."""
    axes: AxisRates


class Spread(TypedDict):
    """A rate over merges that differ in the seed of the retention alone, as fractions of 1."""

    mean: float
    deviation: float
    """Standard deviation."""
    min: float
    max: float
    values: list[float]


class SeedSpread(TypedDict):
    """The spread of every axis over the retention seeds of one run."""

    seeds: list[int]
    axes: dict[str, Spread]


class AblationRecord(TypedDict):
    """ablation.json, of one run or of several that differ in their seed."""

    name: str
    suite: str
    seeds: list[int]
    """A seed for each run; what follows has an entry for each where it says so."""
    chosen: list[dict[str, Any]]
    """The chosen merge settings of each run, as ``MergeSettings`` dumps them."""
    variants: list[VariantRow]
    curves: dict[str, list[CurvePoint]]
    """By the setting that changes."""
    retention_seeds: list[SeedSpread]
    """An entry for each run."""
