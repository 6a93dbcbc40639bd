"""What lies around the cell of a simulated clip: plasma, and cells with their own fate.

On a smear cells touch and lie upon each other, and what happens to one of them says
nothing of the next: a model must not take its neighbour's end for its own.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.simulation.cell_changes import Look, Stage, red_cell
from edge.simulation.cell_painting import Density, Kind, Stain, paint
from training.synthetic.nuisance_drift import Drift

_RADII_UM: dict[str, float] = {"erythrocyte": 3.75, "platelet": 1.35}
_NEAREST, _FARTHEST = 0.85, 1.7  # from centre to centre, in sums of both radii
_ROOM = 1.5  # side of the drawing of a cell that may swell, in sides of its patch
_CHANGING = 0.3  # share of red neighbours to which something happens


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
        How many; those between which nothing changes are the same array.
    random
        Chooses.
    """
    veil = drift.veil * random.standard_normal((3, 3), np.float32)
    still = cv2.resize(veil, (size_px, size_px))[..., None] + np.asarray(
        stain.plasma, np.float32
    )
    moving: list[tuple[Look, list[Stage], int, int]] = []
    for _ in range(random.poisson(drift.neighbours)):
        kind: Kind = "erythrocyte" if random.random() < 0.85 else "platelet"
        patch = paint(kind, random, um, stain)
        reach = random.uniform(_NEAREST, _FARTHEST)
        away = reach * (diameter_um / 2 + _RADII_UM[kind]) / um
        turn = random.uniform(0, 2 * np.pi)
        x, y = size_px / 2 + away * np.array([np.cos(turn), np.sin(turn)])
        if kind == "erythrocyte" and random.random() < _CHANGING:
            side = int(_ROOM * len(patch)) // 2 * 2 + 1
            look = red_cell(patch, stain, um, side, random)
            moving.append((look, _fate(frames, random), round(x), round(y)))
        else:
            _add(still, patch, round(x), round(y))
    if not moving:
        return [still] * frames
    return _animated(still, moving, frames)


def _fate(frames: int, random: np.random.Generator) -> list[Stage]:
    """Draw when and how fast a neighbour swells or bursts."""
    onset, taken = random.integers(0, frames), np.exp(random.uniform(0, np.log(12)))
    passed = np.clip((np.arange(frames) - onset + 1) / taken, 0, 1)
    so_far = np.round(1 - (1 - passed) ** 2, 2).tolist()
    if random.random() < 0.5:
        return [Stage(share, 0.0, 0.0) for share in so_far]
    return [Stage(0.0, share, 0.0) for share in so_far]


def _animated(
    still: Density, moving: list[tuple[Look, list[Stage], int, int]], frames: int
) -> list[Density]:
    shown: list[Density] = []
    drawn: dict[tuple[int, Stage], Density] = {}
    for t in range(frames):
        ground = still.copy()
        for number, (look, stages, x, y) in enumerate(moving):
            key = (number, stages[t])
            if key not in drawn:
                drawn[key] = look(stages[t])
            _add(ground, drawn[key], x, y)
        shown.append(ground)
    return shown


def _add(ground: NDArray[np.float32], patch: Density, x: int, y: int) -> None:
    """Add what of a patch around (x, y) lies in the frame."""
    size, half = len(ground), len(patch) // 2
    top, left = y - half, x - half
    rows = slice(max(top, 0), max(0, min(top + len(patch), size)))
    columns = slice(max(left, 0), max(0, min(left + len(patch), size)))
    if rows.stop > rows.start and columns.stop > columns.start:
        ground[rows, columns] += patch[
            rows.start - top : rows.stop - top,
            columns.start - left : columns.stop - left,
        ]
