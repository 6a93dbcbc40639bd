"""How sure a share is: exact binomial limits, and how many more cells would do.

Clopper and Pearson's limits (1934) are quantiles of beta distributions. They never
cover less than they promise, also for a class of which no cell was seen.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

LEVEL = 0.95
MOST_CELLS = 10_000_000  # nobody counts further
_TINY = 1e-300
_STEPS = 200
_PRECISE = 1e-11
_TURNS = 20
_NEAR_ENOUGH = 0.002


def clopper_pearson(
    count: float, total: float, level: float = LEVEL
) -> tuple[float, float]:
    """Return the exact limits of the share of a class.

    Parameters
    ----------
    count, total
        Cells of the class, and of all. Need not be whole: an effective sample size
        gives the limits of a weighed share (Korn and Graubard, 1998).
    level
        Probability that the limits hold the true share, at least.

    Raises
    ------
    ValueError
        `count` is not between 0 and `total`.
    """
    if not 0 <= count <= total:
        raise ValueError(f"{count} of {total} cells: expected 0 to the total")
    tail = (1 - level) / 2
    low, high = 0.0, 1.0
    if count > 0:
        low = beta_quantile(tail, count, total - count + 1)
    if count < total:
        high = beta_quantile(1 - tail, count + 1, total - count)
    return low, high


def more_cells(count: int, total: int, width: float, level: float = LEVEL) -> int:
    """Return how many more cells to count until the limits are `width` apart.

    It is assumed that the share stays what it is. The answer is good to a part in a
    hundred.
    """
    share = count / total if total else 0.5

    def spread(cells: float) -> float:
        low, high = clopper_pearson(share * cells, cells, level)
        return high - low

    cells = float(max(total, 1))
    if total and spread(cells) <= width:
        return 0
    seen, power = spread(cells), -0.5  # limits draw together as the root of the cells
    for _ in range(_TURNS):
        following = min(cells * (width / seen) ** (1 / power), MOST_CELLS)
        if abs(following / cells - 1) < _NEAR_ENOUGH:
            break
        narrower = spread(following)
        power = math.log(narrower / seen) / math.log(following / cells)
        cells, seen = following, narrower
    return max(1, math.ceil(cells) - total)


@lru_cache(maxsize=4096)
def beta_quantile(probability: float, a: float, b: float) -> float:
    """Return x with I_x(a, b) = `probability`, by Newton's steps inside a bracket.

    Parameters
    ----------
    probability
        Between 0 and 1, exclusive.
    a, b
        Shapes of the beta distribution, above 0.
    """
    low, high = 0.0, 1.0
    x = _guess(probability, a, b)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    for _ in range(_STEPS):
        off = beta_share(x, a, b) - probability
        low, high = (x, high) if off < 0 else (low, x)
        slope = math.exp(scale + (a - 1) * math.log(x) + (b - 1) * math.log1p(-x))
        following = x - off / slope if slope > 0 else low
        if not low < following < high:
            following = (low + high) / 2
        if abs(following - x) <= _PRECISE * following:
            return following
        x = following
    return x


def _guess(probability: float, a: float, b: float) -> float:
    """Return about where a quantile lies, by Wilson's interval (1927)."""
    deviations = NormalDist().inv_cdf(probability)
    cells, share = a + b, a / (a + b)
    square = deviations**2 / cells
    half = deviations * math.sqrt(share * (1 - share) / cells + square / (4 * cells))
    guess = (share + square / 2 + half) / (1 + square)
    return min(max(guess, 1e-9), 1 - 1e-9)


def beta_share(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b).

    By its continued fraction (Abramowitz and Stegun 26.5.8), evaluated by the modified
    method of Lentz, on the side of the mean where it converges fast.
    """
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_share(1 - x, b, a)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(scale + a * math.log(x) + b * math.log1p(-x)) / a
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / (1 + term * d or _TINY)
            c = 1 + term / c or _TINY
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * fraction
