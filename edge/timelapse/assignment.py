"""Say which cell of a frame is which cell of the frame before.

First the shift that all cells have in common is estimated: the field moves as a whole
with the stage. Then one assignment is solved over all pairs of a track and a cell that
lie close enough: the set of links with the least total cost, where leaving a track
without a cell has a cost too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.float64]

# Cost of a track without a cell. A link of unchanged size costs 0 to 1, at the gate.
# Above 1, so that any link inside the gate is better than none.
_UNLINKED_COST = 1.25
_SIZE_COST = 0.25  # of a link to a cell that is twice as wide as before
_MIN_EXPLAINED = 0.8  # share of cells; a shift that explains more is not improved upon
_MIN_CELLS = 4  # fewer tell no shift of their own
_MAX_CHANCE_SHARE = 0.7  # a larger share of links is never mere chance
_MAX_VOTES = 500_000


def estimate_shift(
    before: Positions,
    now: Positions,
    gate_um: float,
    max_um: float,
    guess_um: Positions,
) -> Positions | None:
    """Return how far the field moved beyond where its cells were expected.

    Parameters
    ----------
    before, now
        (M, 2) and (N, 2) float64, µm: expected and found positions.
    gate_um
        Pairs this close belong together.
    max_um
        Longest shift that is considered, in x and in y.
    guess_um
        (2,), the shift to try first, beside none.

    Returns
    -------
    NDArray[np.float64] or None
        (2,) µm to add to `before`; None where too few cells tell it.

    Notes
    -----
    Every pair of an expected and a found cell votes for the shift between them. Only at
    the true shift many votes agree; cells that move on their own, are missed, appear or
    leave are outvoted. The mean of the nearest pairs would not do: when the stage moves
    by more than half the distance between cells, the nearest cell is another one.
    """
    if min(len(before), len(now)) < _MIN_CELLS:
        return None
    tree = _search_tree(now)
    best, best_share = np.zeros(2), -1.0
    for shift in (np.zeros(2), guess_um):
        share = _explained_share(before + shift, tree, gate_um)
        if share > best_share:
            best, best_share = shift, share
    # Voting costs M * N. A stage that rests or drifts steadily is explained without it.
    if best_share < _MIN_EXPLAINED:
        for shift in _most_voted_shifts(before, now, gate_um, max_um):
            share = _explained_share(before + shift, tree, gate_um)
            if share > best_share:
                best, best_share = shift, share
    return _refine(before, now, tree, best, gate_um)


def _search_tree(positions: Positions) -> Any:
    """Make positions (N, 2) searchable.

    Imported here, because SciPy takes 30 MB: only a device that follows cells loads it.
    """
    from scipy.spatial import cKDTree

    return cKDTree(positions)


def _explained_share(expected: Positions, tree: Any, gate_um: float) -> float:
    """Return the share of expected positions (M, 2) with a found cell in the gate."""
    apart, _ = tree.query(expected, distance_upper_bound=gate_um)
    return float(np.isfinite(apart).mean())


def _most_voted_shifts(
    before: Positions, now: Positions, gate_um: float, max_um: float
) -> Positions:
    """Return the shifts (4, 2) µm that most pairs share, on a grid as wide as the gate.

    `before` (M, 2) and `now` (N, 2) µm. A generalised Hough transform for translations
    (Ballard, Pattern Recognition 13, 1981).
    """
    voting = before[:: max(1, len(before) * len(now) // _MAX_VOTES)]
    differences = (now[None] - voting[:, None]).reshape(-1, 2)
    differences = differences[(np.abs(differences) <= max_um).all(axis=1)]
    bins = max(1, int(np.ceil(2 * max_um / gate_um)))
    shifts = []
    # Two grids, half a step apart. A shift on the border of a bin, whose votes one grid
    # divides, lies in the middle of a bin of the other.
    for offset in (0.0, gate_um / 2):
        indices = np.floor((differences + max_um + offset) / gate_um).astype(np.intp)
        counts = np.bincount(indices @ [1, bins + 2], minlength=(bins + 2) ** 2)
        for peak in np.argsort(counts)[-2:]:
            index = np.array([peak % (bins + 2), peak // (bins + 2)])
            shifts.append((index + 0.5) * gate_um - max_um - offset)
    return np.array(shifts)


def _refine(
    before: Positions, now: Positions, tree: Any, shift: Positions, gate_um: float
) -> Positions:
    """Move a shift (2,) µm to the median of the pairs that it brings together.

    Repeated, because a better shift brings other pairs together: the scheme of the
    iterative closest point algorithm (Besl and McKay, 1992), for translations, with a
    median in place of the mean, so that wrong pairs do not move it.
    """
    for _ in range(3):
        apart, nearest = tree.query(before + shift, distance_upper_bound=gate_um)
        is_paired = np.isfinite(apart)
        if is_paired.sum() < _MIN_CELLS:
            break
        shift = np.median(now[nearest[is_paired]] - before[is_paired], axis=0)
    return shift


def assign(
    expected: Positions,
    sizes: NDArray[np.float64],
    gates_um: NDArray[np.float64],
    now: Positions,
    sizes_now: NDArray[np.float64],
) -> NDArray[np.intp]:
    """Link tracks to found cells, one to one, at the least total cost.

    Parameters
    ----------
    expected, sizes, gates_um
        (M, 2), (M,) and (M,) float64, µm: where each track's cell should be, how wide
        it was, and how far off it may be.
    now, sizes_now
        (N, 2) and (N,) float64, µm, of the cells found.

    Returns
    -------
    NDArray[np.intp]
        (M,) the row of `now` for each track, -1 for none.

    Notes
    -----
    A link costs d² / gate² + 0.25 * min(log2(size ratio)², 4), a track without a cell
    1.25. Linking the nearest pairs first is cheaper but gives a wrong chain where a
    dense row of cells moves by half their distance.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    tracks, cells = len(expected), len(now)
    if tracks == 0 or cells == 0:
        return np.full(tracks, -1, np.intp)
    row, column = _pairs_within(expected, gates_um, now)
    squared = ((now[column] - expected[row]) ** 2).sum(axis=1) / gates_um[row] ** 2
    growth = np.log2(sizes_now[column] / sizes[row])
    # 1e-9: an entry of exactly 0 would count as missing in a sparse matrix.
    cost = 1e-9 + squared + _SIZE_COST * np.minimum(growth**2, 4)
    # Each track gets a column of its own that stands for "no cell". So every track can
    # be matched, as a full matching demands, and the problem stays sparse: M * N pairs
    # are never looked at. Solved by LAPJVsp (Jonker and Volgenant, Computing 38, 1987).
    each = np.arange(tracks)
    rows, columns = np.concatenate([[row, column], [each, cells + each]], axis=1)
    graph = csr_array(
        (
            np.concatenate([cost, np.full(tracks, _UNLINKED_COST)]),
            # SciPy 1.13 matches graphs of 32-bit indices alone.
            (rows.astype(np.int32), columns.astype(np.int32)),
        ),
        shape=(tracks, cells + tracks),
    )
    _, chosen = min_weight_full_bipartite_matching(graph)
    return np.where(chosen < cells, chosen, -1).astype(np.intp)


def _pairs_within(
    expected: Positions, gates_um: NDArray[np.float64], now: Positions
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return rows of `expected` (M, 2) and of `now` (N, 2) that lie within a gate."""
    near = _search_tree(now).query_ball_point(expected, gates_um)
    counts = np.fromiter((len(n) for n in near), np.intp, len(expected))
    row = np.repeat(np.arange(len(expected)), counts)
    column = np.fromiter((j for n in near for j in n), np.intp, int(counts.sum()))
    return row, column


def is_chance(
    linked: int, tracks: int, found: int, per_um2: float, gate_um: float
) -> bool:
    """Whether so few links are no more than unrelated cells would give by chance.

    Then the frame shows another field of view, and no link of it is believed.

    Parameters
    ----------
    linked
        Links between confirmed tracks and found cells.
    tracks, found
        Confirmed tracks, and cells found.
    per_um2
        Found cells per µm².
    gate_um
        Within which a link is possible.

    Notes
    -----
    Cells strewn at random, `per_um2` of them, have one within the gate with probability
    p = 1 - exp(-per_um2 * π * gate²), the nearest-neighbour law of a Poisson process.
    """
    # Of the smaller number: where few cells are found and these belong to tracks, the
    # others were only missed.
    possible = min(tracks, found)
    if possible < _MIN_CELLS:
        return False
    chance = 1 - np.exp(-per_um2 * np.pi * gate_um**2)
    # Five standard deviations, because the shift was chosen to link as many as it can.
    spread = np.sqrt(chance * (1 - chance) / possible)
    limit = min(_MAX_CHANCE_SHARE, max(0.25, chance + 5 * spread))
    return bool(linked / possible <= limit)
