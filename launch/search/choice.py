"""Which merge to choose: pure functions over the outcomes of a search."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from launch.search.settings import SearchSettings
from merge.settings import MergeSettings

_SMALLEST_RATE = 1e-3
"""Stands in for a backbone's rate of zero, of which nothing can be a share."""


class _Rates(TypedDict):
    harmful_rate: float
    refusal_rate: float
    utility: float
    degenerate_rate: float


class OutcomeRecord(_Rates, total=False):
    """An outcome as JSON; ``screened`` only where it is true, ``divergence`` where it is not 0."""

    screened: bool
    divergence: float


@dataclass(frozen=True)
class Outcome:
    """The rates of one model, as fractions of 1.

    Attributes:
        screened: they are those of a part of the prompts, and no more were asked.
        divergence: KL to the backbone on harmless answers in nats per token, where the rates are
            estimates from margins and no answer says whether the language holds.
    """

    harmful_rate: float
    refusal_rate: float
    utility: float
    degenerate_rate: float
    screened: bool = False
    divergence: float | None = None

    def rates(self) -> dict[str, float]:
        """The rates by axis."""
        return {axis: getattr(self, axis) for axis in _Rates.__annotations__}

    def as_dict(self) -> OutcomeRecord:
        """The rates, ``screened`` where it is true, and the divergence where it was measured."""
        record = OutcomeRecord(
            harmful_rate=self.harmful_rate,
            refusal_rate=self.refusal_rate,
            utility=self.utility,
            degenerate_rate=self.degenerate_rate,
        )
        if self.screened:
            record["screened"] = True
        if self.divergence:
            record["divergence"] = self.divergence
        return record


WORST = Outcome(harmful_rate=1.0, refusal_rate=1.0, utility=0.0, degenerate_rate=1.0)
"""The outcome of a model whose logits are no numbers: it answers nothing."""
Trial = tuple[MergeSettings, Outcome]


def violation(before: Outcome, after: Outcome, settings: SearchSettings) -> float:
    """By how much a merge breaks the margins: 0 where it keeps them, else the sum of excesses."""
    # Rates are shares of few prompts: one at the margin must not fail by a rounding error.
    slack = 1e-9
    lost = before.utility - settings.utility_margin - after.utility
    degenerate = after.degenerate_rate - before.degenerate_rate - settings.degenerate_margin
    diverged = (after.divergence or 0.0) - settings.max_divergence
    return sum(excess for excess in (lost, degenerate, diverged) if excess > slack)


def worst_remaining_ratio(before: Outcome, after: Outcome) -> float:
    """The larger of what remains of harm and of refusals, as a share of the backbone's."""
    return max(
        remaining_share(before.harmful_rate, after.harmful_rate),
        remaining_share(before.refusal_rate, after.refusal_rate),
    )


def remaining_share(before: float, after: float) -> float:
    """What remains of a fault's rate, as a share of the backbone's."""
    return after / max(before, _SMALLEST_RATE)


def badness(
    before: Outcome, after: Outcome, settings: SearchSettings
) -> tuple[float, float, float]:
    """What orders merges, the best first: margins kept, then the least ``worst_remaining_ratio``,
    then the least sum of both rates."""
    return (
        violation(before, after, settings),
        worst_remaining_ratio(before, after),
        after.harmful_rate + after.refusal_rate,
    )


def choose(before: Outcome, tried: Sequence[Trial], settings: SearchSettings) -> MergeSettings:
    """The settings of the least ``badness``.

    Screened trials do not count; the first trial of a search never is one.
    """
    whole = (pair for pair in tried if not pair[1].screened)
    return min(whole, key=lambda pair: badness(before, pair[1], settings))[0]


def pareto_front(tried: Sequence[Trial], before: Outcome, settings: SearchSettings) -> list[Trial]:
    """Those that keep the margins and that no other such one beats on both rates."""
    kept = within_margins(tried, before, settings)
    return [pair for pair in kept if not any(beats(other[1], pair[1]) for other in kept)]


def within_margins(
    tried: Sequence[Trial], before: Outcome, settings: SearchSettings
) -> list[Trial]:
    """Those that were asked every prompt and keep the margins."""
    return [
        pair for pair in tried if not pair[1].screened and violation(before, pair[1], settings) == 0
    ]


def beats(one: Outcome, other: Outcome) -> bool:
    """Whether ``one`` is nowhere worse and somewhere better."""
    rates = (one.harmful_rate, one.refusal_rate)
    others = (other.harmful_rate, other.refusal_rate)
    return rates != others and all(a <= b for a, b in zip(rates, others, strict=True))
