from __future__ import annotations

import numpy as np
import pytest

from edge.limits import beta_quantile, beta_share, clopper_pearson, more_cells


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


def test_limits_agree_with_an_independent_library() -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(0)
    for _ in range(60):
        total = int(10 ** random.uniform(0, 5))
        count = int(random.choice([0, 1, total - 1, total, random.integers(total + 1)]))
        level = float(random.choice([0.8, 0.95, 0.99]))
        exact = stats.binomtest(count, total).proportion_ci(level, "exact")

        limits = clopper_pearson(count, total, level)

        assert limits == pytest.approx((exact.low, exact.high), rel=1e-7, abs=1e-12)


def test_quantiles_are_inverse_to_shares() -> None:
    for a, b in ((0.5, 3.0), (1.0, 1.0), (3.7, 900.2), (40_000.0, 12.0)):
        for share in (0.025, 0.5, 0.975):
            assert beta_share(beta_quantile(share, a, b), a, b) == pytest.approx(share)


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
