"""How sure a share is: exact binomial limits, and how many more cells are needed.

The limits of Clopper and Pearson (Biometrika 26:404, 1934) are quantiles of beta
distributions. They hold the true share at least as often as promised, also for a class
of which no cell was found. The normal approximation does not: near 0 it covers far
less.
"""

from __future__ import annotations

import math

from scipy.special import betaincinv

LEVEL = 0.95
MAX_CELLS_EVER = 10_000_000  # bounds the search; no count goes further
_MAX_ITERATIONS = 20
_RELATIVE_TOLERANCE = 0.002


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
        low = float(betaincinv(count, total - count + 1, tail))
    if count < total:
        high = float(betaincinv(count + 1, total - count, 1 - tail))
    return low, high


def more_cells(count: int, total: int, width: float, level: float = LEVEL) -> int:
    """Return how many more cells to count until the limits are `width` apart.

    It is assumed that the share stays what it is now. The answer is good to 1 %.

    Parameters
    ----------
    count, total
        Cells of the class, and of all, so far.
    width
        Wanted distance between the limits, as a share, 0 to 1.
    level
        See `clopper_pearson`.
    """
    share = count / total if total else 0.5

    def width_at(cells: float) -> float:
        low, high = clopper_pearson(share * cells, cells, level)
        return high - low

    cells = float(max(total, 1))
    if total and width_at(cells) <= width:
        return 0
    # The width falls as cells ** power, with a power near -0.5. Each step solves for
    # the wanted width with the power of the step before: a secant method in logarithms.
    current_width, power = width_at(cells), -0.5
    for _ in range(_MAX_ITERATIONS):
        next_cells = min(cells * (width / current_width) ** (1 / power), MAX_CELLS_EVER)
        if abs(next_cells / cells - 1) < _RELATIVE_TOLERANCE:
            break
        next_width = width_at(next_cells)
        power = math.log(next_width / current_width) / math.log(next_cells / cells)
        cells, current_width = next_cells, next_width
    return max(1, math.ceil(cells) - total)
