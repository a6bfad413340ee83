"""The recipe's section ``search``."""

from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from launch.shipped import ShippedFile
from merge.common.settings import Settings, added
from merge.settings import ScoreName

Rate = Annotated[float, Field(gt=0, le=1)]
SearchMethod = Literal[
    "difference", "intersection", "by_set", "dense", "task_arithmetic", "dare", "ties", "linear"
]


class SearchSettings(Settings):
    """A search over merge settings on the validation part."""

    suite: ShippedFile
    """The validation prompts; no prompt of the evaluation's suite may be among them."""
    methods: Annotated[tuple[SearchMethod, ...], Field(min_length=1)] = ("difference",)
    """Methods to search, each with the same budget; the first one makes the patched model."""
    trials: PositiveInt = 40
    """Merges tried per method."""
    random_share: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Fraction of the trials that is drawn at random before TPE takes over."""
    workers: PositiveInt = 1
    """Processes that share the trials, each with all inputs in memory; dealt to the GPUs in turn.
    Several do not repeat a search bit for bit, as one does. With vLLM, whose one engine has all
    visible GPUs, they must be jobs of an array (``cluster.search_array``)."""
    screen: Annotated[float, Field(ge=0, lt=1)] = 0
    """Share of each set's prompts that a trial is asked first; where they show it to be clearly
    worse than an earlier one, it ends there. 0 asks all at once."""
    top_rates: tuple[Rate, Rate] = (0.02, 1.0)
    """Smallest and largest top rate of either patch, drawn on a logarithmic scale."""
    scores: Annotated[tuple[ScoreName, ...], Field(min_length=1)] = ("weight", "delta")
    """Scores that a method with masks may rank by."""
    retentions: tuple[Rate, Rate] = (0.3, 1.0)
    """Smallest and largest retention, drawn evenly."""
    patch_weights: tuple[PositiveFloat, PositiveFloat] = (0.3, 6.0)
    """Smallest and largest alpha and beta, drawn on a logarithmic scale."""
    layer_groups: PositiveInt = 1
    """Number of contiguous layer groups with their own multipliers of alpha and beta; 1 gives all
    layers the same."""
    layer_factors: tuple[PositiveFloat, PositiveFloat] = (0.5, 2.0)
    """Smallest and largest multiplier of a layer group, drawn on a logarithmic scale."""
    utility_margin: NonNegativeFloat = 0.02
    """A setting counts only if utility falls by no more than this (fraction of 1)."""
    degenerate_margin: NonNegativeFloat = 0.01
    """A setting counts only if the degenerate rate rises by no more than this (fraction of 1)."""
    by: Literal["answers", "margins"] = added("answers")
    """What a trial asks for. ``answers`` are generated and judged. ``margins`` are forward passes
    alone, 20 to 50 times cheaper on a GPU: how near the model is to refusing each prompt; where
    that tells the backbone's own refusals badly, the search asks for answers after all."""
    answered: PositiveInt = added(6)
    """Number of the best merges of a method that generate answers when ``by`` is ``margins``, one
    after the other; one is chosen by the rates of these answers. With a ``fit``, the best trial of
    the first method answers as well, before the fit."""
    max_divergence: PositiveFloat = added(0.1)
    """By margins: a merge counts only if it diverges from the backbone on harmless answers by no
    more than this (KL in nats per token)."""
    fit: Literal["none", "global", "layers", "modules", "tensors"] = added("none")
    """By margins: whether scales are fitted as well, to the margins' derivatives, and how finely
    at most; cross-validation chooses among this and all coarser ones. ``modules`` are the parts
    of a layer, its attention and its MLP. For the methods whose merge is linear in its scales:
    difference, intersection, dense, by_set."""
    fit_prompts: PositiveInt = added(256)
    """Number of validation prompts whose margins are differentiated, evenly spaced; a backward pass
    each."""
    fit_starts: PositiveInt = added(1)
    """Number of best trials from which the fit starts, each with other masks."""
    fit_rounds: PositiveInt = added(3)
    """Number of linearisations: the first at the backbone, each later one where the last step
    led."""

    @field_validator("top_rates", "retentions", "patch_weights", "layer_factors")
    @classmethod
    def _in_order(cls, ends: tuple[float, float]) -> tuple[float, float]:
        low, high = ends
        if low > high:
            raise ValueError(f"the smallest, {low:g}, is above the largest, {high:g}: swap them")
        return ends

    @model_validator(mode="after")
    def _margins_fit(self) -> "SearchSettings":
        if self.by == "answers" and self.fit != "none":
            raise ValueError(
                "fit needs the margins' derivatives: set by to margins, or fit to none"
            )
        if self.by == "margins" and self.workers > 1:
            raise ValueError("a search by margins is one process: set workers to 1")
        return self
