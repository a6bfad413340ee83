"""Rates with intervals, and agreement of judges: pure functions with formula and source."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np
from scipy.stats import t as student

# The 97.5 % quantile of the standard normal distribution: two-sided 95 % intervals.
Z_95 = 1.959963984540054


class Interval(TypedDict):
    """A number with its 95 % interval, as files hold it."""

    value: float
    low: float
    high: float


class RateRecord(Interval):
    """A share of ``n`` cases as files hold it: fractions of 1."""

    n: int


class GroupedMean(TypedDict):
    """Mean of ``n`` groups with its 95 % interval, as files hold it; None without any value."""

    value: float | None
    low: float | None
    high: float | None
    n: int


class Rate(NamedTuple):
    """A share of ``n`` cases with its 95 % interval, all as fractions of 1."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> RateRecord:
        """The form in which summary.json and report.json hold a rate."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


def wilson_interval(successes: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a binomial proportion (Wilson 1927, JASA 22:209-212).

    With p = successes / n, the interval is
    (p + z^2/2n  -+  z * sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n).
    Unlike p -+ z*sqrt(p(1-p)/n) it has a width at 0 of n and at n of n: 0 of 520 means at most
    0.73 %. Without any case (n = 0) nothing is known: (0, 1).
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} cases")
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # Exact at the edges, where rounding would leave 1e-18 or 1 - 1e-16.
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == n else (centre + spread) / scale
    return low, high


def rate(successes: int, n: int) -> Rate:
    """The share of ``successes`` with Wilson's interval; the value of no case at all is 0."""
    low, high = wilson_interval(successes, n)
    return Rate(successes / n if n else 0.0, low, high, n)


def mean_of_rates(rates: Sequence[Rate]) -> Rate:
    """The plain mean of several rates, whatever their numbers of cases, with a 95 % interval.

    The squared distances from each rate to the ends of its own Wilson interval are summed (Zou
    and Donner 2008, Stat. Med. 27:1693-1702): low = mean - sqrt(sum (p_i - l_i)^2) / k, and the
    same upwards. So it has a width where every rate is 0 or 1.
    """
    count = len(rates)
    value = math.fsum(each.value for each in rates) / count
    down = math.sqrt(math.fsum((each.value - each.low) ** 2 for each in rates)) / count
    up = math.sqrt(math.fsum((each.high - each.value) ** 2 for each in rates)) / count
    cases = sum(each.n for each in rates)
    return Rate(value, max(0.0, value - down), min(1.0, value + up), cases)


class MeanRecord(TypedDict):
    """The mean of several runs' rates with its 95 % interval, as fractions of 1."""

    mean: float
    deviation: float
    """Standard deviation of the rates."""
    low: float
    high: float
    values: list[float]


def mean_and_spread(values: Sequence[float]) -> MeanRecord:
    """Mean of several runs' rates, their standard deviation s, and its interval.

    It is Student's, mean +- t s/sqrt(n), as far as it lies between 0 and 1. One run has no spread:
    its interval is its value.
    """
    mean, spread, half = statistics.fmean(values), 0.0, 0.0
    if len(values) > 1:
        spread = statistics.stdev(values)
        half = float(student.ppf(0.975, len(values) - 1)) * spread / math.sqrt(len(values))
    return {
        "mean": mean,
        "deviation": spread,
        "low": max(0.0, mean - half),
        "high": min(1.0, mean + half),
        "values": list(values),
    }


def grouped_mean(groups: Sequence[list[float]], seed: int = 0, draws: int = 2000) -> GroupedMean:
    """Mean of all values with a 95 % percentile interval over groups drawn with replacement.

    Values of one group (two answers in one dialogue) depend on each other; groups do not. Empty
    groups count nowhere; without any value, value and interval are ``None``.
    """
    sums = np.array([[math.fsum(group), len(group)] for group in groups if group])
    if not len(sums):
        return {"value": None, "low": None, "high": None, "n": 0}
    chosen = np.random.default_rng(seed).integers(0, len(sums), size=(draws, len(sums)))
    totals = sums[chosen].sum(axis=1)
    low, high = np.quantile(totals[:, 0] / totals[:, 1], (0.025, 0.975))
    value = sums[:, 0].sum() / sums[:, 1].sum()
    return {"value": float(value), "low": float(low), "high": float(high), "n": len(sums)}


def cohens_kappa(table: Sequence[Sequence[int]]) -> tuple[float, float]:
    """Agreement of two judges beyond chance, and its standard error (Cohen 1960; Fleiss 1969).

    kappa = (p_o - p_e) / (1 - p_e), with the observed agreement p_o and the agreement p_e that
    the two margins would give by chance.

    Args:
        table: cases by the first judge's class (rows) and the second's (columns).
    """
    counts = np.asarray(table, dtype=float)
    shares = counts / counts.sum()
    rows, columns = shares.sum(1), shares.sum(0)
    observed, chance = float(np.trace(shares)), float(rows @ columns)
    if chance == 1.0:  # both gave one and the same class throughout
        return 1.0, 0.0
    kappa = (observed - chance) / (1 - chance)
    margins = columns[:, None] + rows[None, :]  # of the transposed pair, as Fleiss has it
    diagonal = np.diag(shares) * (1 - (rows + columns) * (1 - kappa)) ** 2
    others = shares * margins**2
    np.fill_diagonal(others, 0)
    variance = (
        diagonal.sum() + (1 - kappa) ** 2 * others.sum() - (kappa - chance * (1 - kappa)) ** 2
    )
    return kappa, math.sqrt(max(0.0, variance) / (counts.sum() * (1 - chance) ** 2))


def corrected_rate(
    positives: int, n: int, true_positives: tuple[int, int], true_negatives: tuple[int, int]
) -> Rate:
    """A rate freed from its judge's known errors (Rogan and Gladen 1978, Am J Epidemiol 107:71).

    (q + Sp - 1) / (Se + Sp - 1), with the share q that the judge calls positive, its sensitivity
    Se and specificity Sp. The interval is that of the delta method, over the uncertainty of all
    three: (q(1-q)/n + r^2 Se(1-Se)/n_Se + (1-r)^2 Sp(1-Sp)/n_Sp) / (Se + Sp - 1)^2, where one
    case is added to each side of every share, so that no share is certain.

    Args:
        true_positives: cases that people call positive: how many the judge found, and of how many.
        true_negatives: the same for the cases that people call negative.

    Raises:
        ValueError: the judge is no better than chance, so nothing can be corrected.
    """
    sensitivity, specificity = (hits / cases for hits, cases in (true_positives, true_negatives))
    gain = sensitivity + specificity - 1
    if gain <= 0:
        raise ValueError(f"a judge of sensitivity {sensitivity} and specificity {specificity}")
    value = min(1.0, max(0.0, (positives / n + specificity - 1) / gain))
    variance = (
        _smoothed_variance(positives, n)
        + value**2 * _smoothed_variance(*true_positives)
        + (1 - value) ** 2 * _smoothed_variance(*true_negatives)
    ) / gain**2
    half = Z_95 * math.sqrt(variance)
    return Rate(value, max(0.0, value - half), min(1.0, value + half), n)


def _smoothed_variance(hits: int, cases: int) -> float:
    share = (hits + 1) / (cases + 2)
    return share * (1 - share) / (cases + 2)
