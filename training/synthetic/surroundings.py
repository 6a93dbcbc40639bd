"""Draw the surroundings of the cell of a simulated clip: plasma and other cells.

On a smear cells touch and overlap, and each of them changes on its own. So a model must
learn not to take a neighbour's change for that of the cell.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.simulation.cell_changes import CellRenderer, ChangeProgress, red_cell
from edge.simulation.cell_painting import Density, Kind, Stain, paint
from training.synthetic.nuisance_drift import Drift

_RADII_UM: dict[str, float] = {"erythrocyte": 3.75, "platelet": 1.35}
_NEAREST, _FARTHEST = 0.85, 1.7  # distance of centres over the sum of both radii
_ROOM = 1.5  # side of the drawing of a cell that may swell, over that of its patch
_CHANGING = 0.3  # share of red neighbours that change


def draw_surroundings(
    diameter_um: float,
    um: float,
    stain: Stain,
    size_px: int,
    drift: Drift,
    frames: int,
    random: np.random.Generator,
) -> list[Density]:
    """Draw plasma and neighbours of a cell in the middle, one (S, S, 3) per frame.

    Parameters
    ----------
    diameter_um
        Of the cell.
    um
        Micrometres per pixel.
    stain
        The dyes.
    size_px
        Side S of a frame.
    drift
        How many neighbours, how uneven the plasma.
    frames
        How many; frames between which nothing changes are the same array.
    random
        Chooses.
    """
    veil = drift.veil * random.standard_normal((3, 3), np.float32)
    still = cv2.resize(veil, (size_px, size_px))[..., None] + np.asarray(
        stain.plasma, np.float32
    )
    changing: list[tuple[CellRenderer, list[ChangeProgress], int, int]] = []
    for _ in range(random.poisson(drift.neighbours)):
        kind: Kind = "erythrocyte" if random.random() < 0.85 else "platelet"
        patch = paint(kind, random, um, stain)
        reach = random.uniform(_NEAREST, _FARTHEST)
        distance = reach * (diameter_um / 2 + _RADII_UM[kind]) / um
        angle = random.uniform(0, 2 * np.pi)
        x, y = size_px / 2 + distance * np.array([np.cos(angle), np.sin(angle)])
        if kind == "erythrocyte" and random.random() < _CHANGING:
            side = int(_ROOM * len(patch)) // 2 * 2 + 1
            look = red_cell(patch, stain, um, side, random)
            changing.append((look, _stages(frames, random), round(x), round(y)))
        else:
            _add(still, patch, round(x), round(y))
    if not changing:
        return [still] * frames
    return _animated(still, changing, frames)


def _stages(frames: int, random: np.random.Generator) -> list[ChangeProgress]:
    """Draw when and how fast a neighbour swells or bursts: its stage in each frame."""
    onset, duration = random.integers(0, frames), np.exp(random.uniform(0, np.log(12)))
    passed = np.clip((np.arange(frames) - onset + 1) / duration, 0, 1)
    so_far = np.round(1 - (1 - passed) ** 2, 2).tolist()
    if random.random() < 0.5:
        return [ChangeProgress(share, 0.0, 0.0) for share in so_far]
    return [ChangeProgress(0.0, share, 0.0) for share in so_far]


def _animated(
    still: Density,
    changing: list[tuple[CellRenderer, list[ChangeProgress], int, int]],
    frames: int,
) -> list[Density]:
    """Add the neighbours that change to plasma and still cells (S, S, 3), by frame."""
    grounds: list[Density] = []
    drawn: dict[tuple[int, ChangeProgress], Density] = {}
    for t in range(frames):
        ground = still.copy()
        for number, (look, stages, x, y) in enumerate(changing):
            key = (number, stages[t])
            if key not in drawn:
                drawn[key] = look(stages[t])
            _add(ground, drawn[key], x, y)
        grounds.append(ground)
    return grounds


def _add(ground: NDArray[np.float32], patch: Density, x: int, y: int) -> None:
    """Add a patch (P, P, 3) around (x, y) to a frame (S, S, 3), cut at its borders."""
    size, half = len(ground), len(patch) // 2
    top, left = y - half, x - half
    rows = slice(max(top, 0), max(0, min(top + len(patch), size)))
    columns = slice(max(left, 0), max(0, min(left + len(patch), size)))
    if rows.stop > rows.start and columns.stop > columns.start:
        ground[rows, columns] += patch[
            rows.start - top : rows.stop - top,
            columns.start - left : columns.stop - left,
        ]
