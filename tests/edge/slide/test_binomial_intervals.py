from __future__ import annotations

import math

import pytest

from edge.slide.binomial_intervals import clopper_pearson, more_cells


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [  # percent, as printed for differentials (Rümke's table has the same)
        (0, 100, 0.0, 3.6),
        (1, 100, 0.0, 5.4),
        (10, 200, 2.4, 9.0),
        (20, 400, 3.1, 7.6),
        (100, 500, 16.6, 23.8),
        (500, 1000, 46.9, 53.1),
        (70, 100, 60.0, 78.8),
    ],
)
def test_limits_are_those_of_the_tables(
    count: int, total: int, low: float, high: float
) -> None:
    limits = clopper_pearson(count, total)

    assert (100 * limits[0], 100 * limits[1]) == pytest.approx((low, high), abs=0.05)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(
    ("count", "total"), [(0, 7), (1, 40), (17, 60), (199, 200), (350, 1000), (9, 9)]
)
def test_at_a_limit_what_was_seen_is_just_as_unlikely_as_promised(
    count: int, total: int, level: float
) -> None:
    """By the definition: tails of the binomial distribution, summed."""
    low, high = clopper_pearson(count, total, level)
    tail = (1 - level) / 2

    if count > 0:
        assert _chance(range(count, total + 1), total, low) == pytest.approx(tail)
    if count < total:
        assert _chance(range(count + 1), total, high) == pytest.approx(tail)


def _chance(counts: range, total: int, share: float) -> float:
    """Chance of so many cells out of `total`, term by term."""
    yes, no = math.log(share), math.log1p(-share)
    ways = (math.log(math.comb(total, n)) + n * yes + (total - n) * no for n in counts)
    return math.fsum(map(math.exp, ways))


def test_limits_of_no_cells_say_nothing() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("count", "total"), [(-1, 5), (6, 5)])
def test_counts_that_cannot_be_are_refused(count: int, total: int) -> None:
    with pytest.raises(ValueError, match="expected 0 to the total"):
        clopper_pearson(count, total)


@pytest.mark.parametrize(
    ("count", "total", "width"),
    [(20, 100, 0.05), (0, 400, 0.001), (1, 10, 0.02), (399, 400, 0.002)],
)
def test_so_many_more_cells_make_the_limits_as_narrow_as_wanted(
    count: int, total: int, width: float
) -> None:
    cells = total + more_cells(count, total, width)

    low, high = clopper_pearson(count / total * cells, cells)

    assert high - low == pytest.approx(width, rel=0.01)


def test_limits_that_are_narrow_enough_need_no_more_cells() -> None:
    assert more_cells(5, 10_000, 0.05) == 0
    assert 380 < more_cells(0, 0, 0.1) < 420  # half of them, at worst
