"""Two models on the same prompts: tests and intervals for what changed between them."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from functools import partial
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest

from eval.statistics.rates import Z_95, wilson_interval

POWER = 0.8
"""How surely a number of cases that this module proposes decides, if the shares seen are true."""
_MOST_CASES = 10**9
"""More cases than any suite has: the end of a search."""
_quantile = NormalDist().inv_cdf


class PairCounts(NamedTuple):
    """How often a thing happened with each of two models, over the same cases."""

    both: int
    only_before: int
    only_after: int
    neither: int

    @classmethod
    def of(cls, before: Sequence[bool], after: Sequence[bool]) -> "PairCounts":
        """Count cases; the two sequences have equal length and the same order."""
        pairs = list(zip(before, after, strict=True))
        return cls(
            pairs.count((True, True)),
            pairs.count((True, False)),
            pairs.count((False, True)),
            pairs.count((False, False)),
        )

    @property
    def n(self) -> int:
        return sum(self)

    @property
    def discordant(self) -> int:
        """Cases that count with one of the two alone."""
        return self.only_before + self.only_after

    @property
    def difference(self) -> float:
        """Share after minus share before."""
        return (self.only_after - self.only_before) / self.n


def mcnemar_exact(counts: PairCounts) -> float:
    """Two-sided exact p-value (McNemar 1947): of the discordant pairs, half go each way.

    Without any discordant pair it is 1.
    """
    if counts.discordant == 0:
        return 1.0
    fewer = min(counts.only_before, counts.only_after)
    return float(binomtest(fewer, counts.discordant, 0.5).pvalue)


def difference_interval(counts: PairCounts) -> tuple[float, float]:
    """95 % interval of the share after minus the share before (Newcombe 1998, method 10).

    Wilson intervals of both shares, joined with their correlation phi; phi's numerator is
    lessened by n/2 where it is positive. Unlike a bootstrap it has a width where nothing changed.
    """
    both, before_only, after_only, _ = counts
    n = counts.n
    before, after = (both + before_only) / n, (both + after_only) / n
    low_before, high_before = wilson_interval(both + before_only, n)
    low_after, high_after = wilson_interval(both + after_only, n)
    phi = _correlation(counts)
    difference = after - before
    down, up = after - low_after, high_after - after
    before_down, before_up = before - low_before, high_before - before
    low = difference - math.sqrt(down**2 - 2 * phi * down * before_up + before_up**2)
    high = difference + math.sqrt(up**2 - 2 * phi * up * before_down + before_down**2)
    return max(-1.0, low), min(1.0, high)


def cases_to_exclude(counts: PairCounts, loss: float, margin: float) -> float:
    """How many cases would exclude a loss of ``margin``, if the shares are those of ``counts``.

    The upper end of the 95 % interval of ``loss`` lies below ``margin`` with probability
    ``POWER`` at n = ((z_0.975 + z_power) / (margin - loss))^2 * (q - d^2), where q is the
    discordant share and d the difference: q - d^2 is the variance of one pair's difference. It is
    0 where no case changed, or where all changed alike. Nothing is then left to chance, and n is
    the least at which Newcombe's interval excludes the margin.

    Returns:
        Infinity where the loss is not below the margin.
    """
    if loss >= margin:
        return math.inf
    if _pair_variance(counts) == 0:
        is_enough = partial(_excludes, counts, loss, margin)
        return 1 + bisect_left(range(1, _MOST_CASES), True, key=is_enough)
    return ((Z_95 + _quantile(POWER)) / (margin - loss)) ** 2 * _pair_variance(counts)


def _excludes(counts: PairCounts, loss: float, margin: float, n: int) -> bool:
    """Whether the interval of a loss excludes the margin at n cases with these shares."""
    before, after = (n * change // counts.n for change in (counts.only_before, counts.only_after))
    both = min(round(n * counts.both / counts.n), n - before - after)
    low, high = difference_interval(PairCounts(both, before, after, n - both - before - after))
    # Without variance both ends are equally far, except where a share's limit cuts one off.
    return loss + max(counts.difference - low, high - counts.difference) <= margin


def cases_to_show(counts: PairCounts, level: float) -> float:
    """How many cases would make this difference significant at ``level``, with ``POWER``.

    McNemar's test (Connor 1987, Biometrics 43:207-211):
    n = ((z_(1 - level/2) * sqrt(q) + z_power * sqrt(q - d^2)) / d)^2; infinity where d is 0.
    """
    if counts.difference == 0:
        return math.inf
    discordant = counts.discordant / counts.n
    spread = _quantile(1 - level / 2) * math.sqrt(discordant)
    spread += _quantile(POWER) * math.sqrt(_pair_variance(counts))
    return (spread / counts.difference) ** 2


def _pair_variance(counts: PairCounts) -> float:
    return counts.discordant / counts.n - counts.difference**2


def _correlation(counts: PairCounts) -> float:
    both, before_only, after_only, neither = counts
    margins = (
        (both + before_only)
        * (after_only + neither)
        * (both + after_only)
        * (before_only + neither)
    )
    if margins == 0:
        return 0.0
    product = both * neither - before_only * after_only
    if product > 0:
        product = max(product - counts.n / 2, 0)
    return product / math.sqrt(margins)


def paired_bootstrap(
    before: Sequence[float], after: Sequence[float], seed: int = 0, draws: int = 2000
) -> tuple[float, float]:
    """95 % percentile interval of mean(after) - mean(before) (Efron 1979), cases drawn as pairs."""
    differences = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    generator = np.random.default_rng(seed)
    chosen = generator.integers(0, len(differences), size=(draws, len(differences)))
    low, high = np.quantile(differences[chosen].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def ratio_bootstrap(
    above: Sequence[Sequence[float]],
    below: Sequence[Sequence[float]],
    seed: int = 0,
    draws: int = 2000,
) -> tuple[float, float]:
    """95 % percentile interval of (sum x / sum y of above) / (sum x / sum y of below).

    Both lists hold pairs (x, y), for example seconds and tokens of the answer to one prompt; the
    cases are drawn together. A draw without any y is left out.
    """
    generator = np.random.default_rng(seed)
    chosen = generator.integers(0, len(above), size=(draws, len(above)))

    def totals(pairs: Sequence[Sequence[float]]) -> list[np.ndarray]:
        columns = zip(*pairs, strict=True)
        return [np.asarray(column, float)[chosen].sum(axis=1) for column in columns]

    (x, y), (base_x, base_y) = totals(above), totals(below)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (x / y) / (base_x / base_y)
    low, high = np.quantile(ratios[np.isfinite(ratios)], (0.025, 0.975))
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that keep the family's error at the level (Holm 1979).

    The i-th smallest of m is multiplied by m - i + 1, then made monotone and capped at 1.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
