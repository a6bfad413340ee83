"""Interval estimates for rates: pure functions, each with its formula and source."""

import math
from typing import NamedTuple

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
