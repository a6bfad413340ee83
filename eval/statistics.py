"""Rates with intervals, and agreement of judges: pure functions with formula and source."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# The 97.5 % quantile of the standard normal distribution: two-sided 95 % intervals.
Z_95 = 1.959963984540054


class Rate(NamedTuple):
    """A share of ``n`` cases with its 95 % interval, all as fractions of 1."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        """The form in which summary.json and report.json hold a rate."""
        return self._asdict()


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
