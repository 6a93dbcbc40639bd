"""Match cells by how they lie to each other: constellations that tell a place."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

_NEAR = 0.45  # of the smaller width: centres of one cell seen twice lie closer
_ALIKE = 1.8  # ratio of widths; a platelet on a red cell is not that cell
_LEAST_CELLS = 6
_LEAST_SHARE = 0.25  # of the cells that must agree on a shift to be worth a look
_MOST_PLACES = 3
_MOST_VOTES = 1_000_000  # fewer of the seen cells vote where very many are known
_MOST_SQUARES = 2048  # in x and in y; what lies further apart is counted with the rest


def pair(
    seen: Points,
    candidates: Points,
    seen_px: NDArray[np.float64],
    known_px: NDArray[np.float64],
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Say which cell is which, nearest pairs first, each used once.

    Parameters
    ----------
    seen, candidates
        (N, 2) and (M, 2) centres in pixels of one frame of reference.
    seen_px, known_px
        (N,) and (M,) widths of the cells. Two are the same only if their centres lie
        within 0.45 of the smaller width, and widths differ by less than 1.8 times.

    Returns
    -------
    tuple
        Two arrays (P,): rows of `seen` and the rows of `candidates` they are.
    """
    if len(seen) == 0 or len(candidates) == 0:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    apart = np.hypot(*(seen[:, None] - candidates[None]).transpose(2, 0, 1))
    smaller = np.minimum(seen_px[:, None], known_px[None])
    larger = np.maximum(seen_px[:, None], known_px[None])
    distance = apart / np.maximum(smaller, 1e-6)
    rows, columns = np.nonzero((distance < _NEAR) & (larger < _ALIKE * smaller))
    order = np.argsort(distance[rows, columns], kind="stable")
    left, right = [], []
    used_rows: set[int] = set()
    used_columns: set[int] = set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in used_rows and column not in used_columns:
            used_rows.add(row)
            used_columns.add(column)
            left.append(row)
            right.append(column)
    return np.array(left, np.intp), np.array(right, np.intp)


def likely_shifts(
    seen: Points, candidates: Points, cell_px: float
) -> list[tuple[float, float]]:
    """Find shifts under which many seen cells lie on known ones, most likely first.

    Every pair of a seen and a known cell votes for its difference; votes are counted in
    squares of half a cell, four neighbouring ones together (a generalised Hough
    transform for translation). On a wide slide the squares are folded onto each other,
    so that memory does not grow with the way that was walked.

    Parameters
    ----------
    seen, candidates
        (N, 2) and (M, 2) centres; the shift takes `seen` onto `candidates`.
    cell_px
        Width of a red cell.
    """
    if len(seen) < _LEAST_CELLS or len(candidates) < _LEAST_CELLS:
        return []
    seen = seen[:: math.ceil(len(seen) * len(candidates) / _MOST_VOTES)]
    differences = (candidates[None] - seen[:, None]).reshape(-1, 2)
    square = np.floor(differences / (cell_px / 2)).astype(np.int64)
    square = (square - square.min(axis=0)) % _MOST_SQUARES
    high, wide = (square.max(axis=0) + 2).tolist()
    votes = np.bincount(square[:, 0] * wide + square[:, 1], minlength=high * wide)
    grid = votes.reshape(high, wide)
    four = grid[:-1, :-1] + grid[1:, :-1] + grid[:-1, 1:] + grid[1:, 1:]
    found: list[tuple[float, float]] = []
    least = max(_LEAST_CELLS, _LEAST_SHARE * len(seen))
    for _ in range(_MOST_PLACES):
        row, column = np.unravel_index(int(four.argmax()), four.shape)
        if four[row, column] < least:
            break
        agree = (np.abs(square - (row, column) - 0.5) < 1).all(axis=1)
        x_px, y_px = np.median(differences[agree], axis=0).tolist()
        found.append((x_px, y_px))
        rows = slice(max(0, int(row) - 1), int(row) + 2)
        four[rows, max(0, int(column) - 1) : int(column) + 2] = 0
    return found
