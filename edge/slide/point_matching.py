"""Match cells by their positions alone: the same cells form the same pattern.

`pair` matches cells whose positions are nearly known. `likely_shifts` finds by which
shift the cells of a frame lie on cells that are known from before, when nothing is
known of the shift. It needs no picture, so it also works where focus or light changed.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

_MAX_DISTANCE = 0.45  # of the smaller width, between two finds of one cell
_MAX_WIDTH_RATIO = 1.8  # a platelet on a red cell is not that cell
_MIN_CELLS = 6
_MIN_SHARE = 0.25  # of the cells that must agree on a shift, to make it a candidate
_MAX_SHIFTS = 3
_MAX_VOTES = 1_000_000  # where more cells are known, fewer of the found ones vote
_MAX_BINS = 2048  # in x and in y


def pair(
    found: Points,
    known: Points,
    found_px: NDArray[np.float64],
    known_px: NDArray[np.float64],
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Match found cells with known ones, nearest pairs first, each used once.

    Parameters
    ----------
    found, known
        (N, 2) and (M, 2) float64, centres in pixels of one frame of reference.
    found_px, known_px
        (N,) and (M,) float64, widths of the cells. Two are the same cell only if their
        centres lie within 0.45 of the smaller width, and their widths differ by less
        than 1.8 times.

    Returns
    -------
    tuple
        Two arrays (P,): rows of `found`, and the rows of `known` that they match.
    """
    if len(found) == 0 or len(known) == 0:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    apart = np.hypot(*(found[:, None] - known[None]).transpose(2, 0, 1))
    smaller = np.minimum(found_px[:, None], known_px[None])
    larger = np.maximum(found_px[:, None], known_px[None])
    distance = apart / np.maximum(smaller, 1e-6)
    is_possible = (distance < _MAX_DISTANCE) & (larger < _MAX_WIDTH_RATIO * smaller)
    rows, columns = np.nonzero(is_possible)
    # Nearest first is enough here: within 0.45 of a width a cell seldom has a second
    # candidate. The tracker, whose gates are wide, solves the assignment as a whole.
    order = np.argsort(distance[rows, columns], kind="stable")
    found_rows, known_rows = [], []
    used_rows: set[int] = set()
    used_columns: set[int] = set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in used_rows and column not in used_columns:
            used_rows.add(row)
            used_columns.add(column)
            found_rows.append(row)
            known_rows.append(column)
    return np.array(found_rows, np.intp), np.array(known_rows, np.intp)


def likely_shifts(
    found: Points, known: Points, cell_px: float
) -> list[tuple[float, float]]:
    """Find shifts that bring many found cells onto known ones, most likely first.

    Parameters
    ----------
    found, known
        (N, 2) and (M, 2) float64 centres, px; the shift is added to `found`.
    cell_px
        Width of a red cell.

    Notes
    -----
    A generalised Hough transform for translations (Ballard, Pattern Recognition 13,
    1981): every pair of a found and a known cell votes for its difference. The true
    shift gets a vote from each cell that was found again, all others are scattered.
    """
    if len(found) < _MIN_CELLS or len(known) < _MIN_CELLS:
        return []
    found = found[:: math.ceil(len(found) * len(known) / _MAX_VOTES)]
    differences = (known[None] - found[:, None]).reshape(-1, 2)
    bins = np.floor(differences / (cell_px / 2)).astype(np.int64)
    # On a wide slide bins are folded onto each other, so that memory does not grow with
    # the distance travelled. Shifts that then share a bin lie far apart: the median
    # below follows the one with more votes, and registration checks every candidate.
    bins = (bins - bins.min(axis=0)) % _MAX_BINS
    height, width = (bins.max(axis=0) + 2).tolist()
    votes = np.bincount(bins[:, 0] * width + bins[:, 1], minlength=height * width)
    grid = votes.reshape(height, width)
    # Four neighbouring bins are counted together: a shift on the border of two bins
    # must not lose half of its votes.
    four = grid[:-1, :-1] + grid[1:, :-1] + grid[:-1, 1:] + grid[1:, 1:]
    shifts: list[tuple[float, float]] = []
    min_votes = max(_MIN_CELLS, _MIN_SHARE * len(found))
    for _ in range(_MAX_SHIFTS):
        row, column = np.unravel_index(int(four.argmax()), four.shape)
        if four[row, column] < min_votes:
            break
        agree = (np.abs(bins - (row, column) - 0.5) < 1).all(axis=1)
        x_px, y_px = np.median(differences[agree], axis=0).tolist()
        shifts.append((x_px, y_px))
        rows = slice(max(0, int(row) - 1), int(row) + 2)
        four[rows, max(0, int(column) - 1) : int(column) + 2] = 0
    return shifts
