"""How sure a share is: exact binomial limits, and how many more cells would do.

Clopper and Pearson's limits (1934) are quantiles of beta distributions. They never
cover less than they promise, also for a class of which no cell was seen.
"""

from __future__ import annotations

import math

from scipy.special import betaincinv

LEVEL = 0.95
MAX_CELLS_EVER = 10_000_000  # nobody counts further
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
        low = float(betaincinv(count, total - count + 1, tail))
    if count < total:
        high = float(betaincinv(count + 1, total - count, 1 - tail))
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
        following = min(cells * (width / seen) ** (1 / power), MAX_CELLS_EVER)
        if abs(following / cells - 1) < _NEAR_ENOUGH:
            break
        narrower = spread(following)
        power = math.log(narrower / seen) / math.log(following / cells)
        cells, seen = following, narrower
    return max(1, math.ceil(cells) - total)
