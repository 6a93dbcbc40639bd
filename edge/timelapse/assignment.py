"""Say which cell of a frame is which cell of the frame before.

First the shift that all cells share, then one assignment over all pairs that lie close
enough: the cheapest set of links, where leaving a cell unlinked has a price too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.float64]

_UNLINKED = 1.25  # price of a track without a cell; a link at the gate costs 1
_SIZE_PRICE = 0.25  # of a cell twice as wide as before
_ENOUGH = 0.8  # share of cells that a shift explains, above which none is looked for
_LEAST_CELLS = 4  # that tell a shift of their own
_MOST_CHANCE = 0.7  # share of links that is never mere chance
_MOST_VOTES = 500_000


def estimate_shift(
    before: Places, now: Places, gate_um: float, most_um: float, guess_um: Places
) -> Places | None:
    """How far the field moved, from where its cells are expected and where they are.

    Each pair of an expected and a found cell votes for a shift; what most pairs share
    is refined to the median of the nearest pairs. Cells that move on their own,
    are missed, appear or go are outvoted.

    Parameters
    ----------
    before, now
        (M, 2) and (N, 2), µm.
    gate_um
        Pairs this close belong together.
    most_um
        Longest shift that is considered, in x and in y.
    guess_um
        (2,), the shift to try first, beside none.

    Returns
    -------
    NDArray[np.float64] or None
        (2,) µm to add to `before`; None where too few cells tell it.
    """
    if min(len(before), len(now)) < _LEAST_CELLS:
        return None
    tree = _tree(now)
    best, most = np.zeros(2), -1.0
    for shift in (np.zeros(2), guess_um):
        found = _explained(before + shift, tree, gate_um)
        if found > most:
            best, most = shift, found
    if most < _ENOUGH:
        for shift in _votes(before, now, gate_um, most_um):
            found = _explained(before + shift, tree, gate_um)
            if found > most:
                best, most = shift, found
    return _refined(before, now, tree, best, gate_um)


def _tree(places: Places) -> Any:
    """Make places searchable. SciPy takes 30 MB: only who follows cells loads it."""
    from scipy.spatial import cKDTree

    return cKDTree(places)


def _explained(expected: Places, tree: Any, gate_um: float) -> float:
    """Share of expected cells that have a found one close by."""
    apart, _ = tree.query(expected, distance_upper_bound=gate_um)
    return float(np.isfinite(apart).mean())


def _votes(before: Places, now: Places, gate_um: float, most_um: float) -> Places:
    """Return the shifts (≤4, 2) that most pairs share, on a grid as wide as the gate.

    Two grids, half a step apart, so that no shift falls on the border of both.
    """
    few = before[:: max(1, len(before) * len(now) // _MOST_VOTES)]
    apart = (now[None] - few[:, None]).reshape(-1, 2)
    apart = apart[(np.abs(apart) <= most_um).all(axis=1)]
    bins = max(1, int(np.ceil(2 * most_um / gate_um)))
    shifts = []
    for offset in (0.0, gate_um / 2):
        cells = np.floor((apart + most_um + offset) / gate_um).astype(np.intp)
        counts = np.bincount(cells @ [1, bins + 2], minlength=(bins + 2) ** 2)
        for peak in np.argsort(counts)[-2:]:
            cell = np.array([peak % (bins + 2), peak // (bins + 2)])
            shifts.append((cell + 0.5) * gate_um - most_um - offset)
    return np.array(shifts)


def _refined(
    before: Places, now: Places, tree: Any, shift: Places, gate_um: float
) -> Places:
    """Move a shift to the median of the pairs that it brings together."""
    for _ in range(3):
        apart, nearest = tree.query(before + shift, distance_upper_bound=gate_um)
        paired = np.isfinite(apart)
        if paired.sum() < _LEAST_CELLS:
            break
        shift = np.median(now[nearest[paired]] - before[paired], axis=0)
    return shift


def assign(
    expected: Places,
    sizes: NDArray[np.float64],
    gates_um: NDArray[np.float64],
    now: Places,
    sizes_now: NDArray[np.float64],
) -> NDArray[np.intp]:
    """Link expected cells to found ones, one to one, at the least price in all.

    A link costs the squared distance over the squared gate, and more where the cell's
    size changed. Only pairs within a gate are looked at, so the sparse problem is
    solved by the shortest augmenting paths of LAPJVsp (Jonker and Volgenant, 1987).

    Parameters
    ----------
    expected, sizes, gates_um
        (M, 2) µm, (M,) µm and (M,) µm: where each track's cell should be, how wide it
        was and how far off it may be.
    now, sizes_now
        (N, 2) µm and (N,) µm of the cells found.

    Returns
    -------
    NDArray[np.intp]
        (M,) the cell of each track, -1 for none.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    tracks, cells = len(expected), len(now)
    if tracks == 0 or cells == 0:
        return np.full(tracks, -1, np.intp)
    near = _tree(now).query_ball_point(expected, gates_um)
    counts = np.fromiter((len(n) for n in near), np.intp, tracks)
    row = np.repeat(np.arange(tracks), counts)
    column = np.fromiter((j for n in near for j in n), np.intp, int(counts.sum()))
    apart = ((now[column] - expected[row]) ** 2).sum(axis=1) / gates_um[row] ** 2
    grown = np.log2(sizes_now[column] / sizes[row])
    price = 1e-9 + apart + _SIZE_PRICE * np.minimum(grown**2, 4)
    alone = np.arange(tracks)
    graph = csr_array(
        (
            np.concatenate([price, np.full(tracks, _UNLINKED)]),
            (np.concatenate([row, alone]), np.concatenate([column, cells + alone])),
        ),
        shape=(tracks, cells + tracks),
    )
    _, chosen = min_weight_full_bipartite_matching(graph)
    return np.where(chosen < cells, chosen, -1).astype(np.intp)


def is_chance(
    linked: int, tracks: int, found: int, per_um2: float, gate_um: float
) -> bool:
    """Whether so few links are no more than cells that lie about by chance would give.

    Cells strewn at random, `per_um2` of them, have one within the gate with probability
    1 - exp(-density π gate²). The shift was chosen to link as many as possible, so five
    standard deviations above that are still chance. Where few cells are found, but
    those belong to tracks, the others were only missed.
    """
    wanted = min(tracks, found)
    if wanted < _LEAST_CELLS:
        return False
    chance = 1 - np.exp(-per_um2 * np.pi * gate_um**2)
    spread = np.sqrt(chance * (1 - chance) / wanted)
    return bool(linked / wanted <= min(_MOST_CHANCE, max(0.25, chance + 5 * spread)))
