"""Simulated time-lapse: one cell per clip; its change is known in each frame.

A cell is painted once and then changed as a smooth function of the progress of the
change, so that it stays the same cell.

The classes differ in their change over time alone. Steady cells are as large as swollen
ones, some are ghosts or spread platelets from the first frame on, and all cells move
and turn, under a lamp and a focus that drift.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.simulation.cell_changes import ChangeProgress, red_cell, spreading_cell
from edge.simulation.cell_painting import LEUKOCYTES, STAINS, Density, Kind, paint
from edge.taxonomy import TASKS
from training.data.clips import Clips
from training.data.rows import DataInvalid, Row
from training.synthetic.nuisance_drift import (
    DRIFTING,
    Drift,
    draw_focus,
    draw_lamp,
    draw_moves,
)
from training.synthetic.smears import random_stain
from training.synthetic.surroundings import draw_surroundings

DOMAIN = "simulated time-lapse"
_NAMES = TASKS["change"]
_FINE = 2  # a cell is drawn in pixels of half the size
_ROOM = 1.1  # side of the drawing over that of a frame
_OPTICS_UM = 0.13  # diffraction blur of a 1.25 NA objective
_REACH = 0.12  # how far a cell moves from the middle, over the side of a frame
_SIZES: dict[str, tuple[float, float, float]] = {  # µm, and its share of a frame's side
    "erythrocyte": (7.5, 0.34, 0.60),
    "platelet": (2.7, 0.22, 0.38),
    "leukocyte": (13.0, 0.42, 0.62),
}


def simulated_timelapse(
    clips: int, frames: int, size_px: int, seed: int, drift: Drift = DRIFTING
) -> Clips:
    """Render clips of one cell each; the classes of task `change` take turns.

    Parameters
    ----------
    clips
        How many; with a larger number the first clips stay the same.
    frames
        Of each clip, two or more.
    size_px
        Side of a frame.
    seed
        The same seed renders the same clips.
    drift
        What changes besides the cell.

    Returns
    -------
    Clips
        Each frame is steady until the onset. A red cell that swells before it bursts
        is swelling until it does; the label of its row is lysis.

    Raises
    ------
    DataInvalid
        Fewer than two frames, in which nothing can change.
    """
    if frames < 2:
        raise DataInvalid(
            f"a time-lapse of {frames} frames shows no change; ask for 2 or more"
        )
    pixels = np.empty((clips, frames, size_px, size_px, 3), np.uint8)
    classes = np.empty((clips, frames), np.int64)
    for number in range(clips):
        random = np.random.default_rng((seed, number))
        change = _NAMES[number % len(_NAMES)]
        stages, classes[number] = _changes(change, frames, random)
        kind = _kind(change, random)
        pixels[number] = _film(kind, stages, size_px, drift, random)
    rows = tuple(_row(number, seed, frames) for number in range(clips))
    return Clips(pixels, classes, rows)


def _row(number: int, seed: int, frames: int) -> Row:
    """Return the row of a simulated clip."""
    name = f"clip-{seed}-{number}"
    return Row(
        path=Path(name),
        licence="MIT",
        split="train",
        label=_NAMES[number % len(_NAMES)],
        box=None,
        task="change",
        domain=DOMAIN,
        group=name,
        is_complete=True,
        where=f"{DOMAIN} {name}",
        frames=frames,
    )


def _kind(change: str, random: np.random.Generator) -> Kind:
    """Draw a kind of cell that can change so.

    Steady cells are of the same kinds, so that the kind does not reveal the change.
    """
    is_red = change in ("swelling", "lysis")
    if change == "steady":
        is_red = random.random() < 0.5
        if random.random() < 0.1:
            return LEUKOCYTES[random.integers(len(LEUKOCYTES))]
    if is_red:
        return "erythrocyte"
    return "platelet" if random.random() < 0.7 else "neutrophil"


def _changes(
    change: str, frames: int, random: np.random.Generator
) -> tuple[list[ChangeProgress], NDArray[np.int64]]:
    """Draw when and how fast a cell changes: the stage and the class of each frame."""
    swollen, lost, spread = np.zeros((3, frames))
    classes = np.full(frames, _NAMES.index("steady"), np.int64)
    onset = int(random.integers(1, max(2, round(0.7 * frames))))
    duration = float(np.exp(random.uniform(np.log(2), np.log(12))))
    if change == "steady":
        swollen[:], spread[:] = random.uniform(0, 1, 2) * (random.random(2) < 0.5)
        lost[:] = random.uniform(0.5, 1) * (random.random() < 0.15)
    elif change == "lysis":
        swells_for = int(random.integers(2, 7)) * (random.random() < 0.5)
        burst = min(onset + swells_for, frames - 1)
        if burst > onset:
            swollen = random.uniform(0.3, 1) * _progress(frames, onset, burst - onset)
        lost = random.uniform(0.9, 1) * _progress(frames, burst, random.uniform(1, 4))
        classes[onset:] = _NAMES.index("swelling")
        classes[burst:] = _NAMES.index("lysis")
    else:
        so_far = random.uniform(0.7, 1) * _progress(frames, onset, duration)
        (swollen if change == "swelling" else spread)[:] = so_far
        classes[onset:] = _NAMES.index(change)
    stages = np.stack([swollen, lost, spread], 1).tolist()
    return [ChangeProgress(*stage) for stage in stages], classes


def _progress(frames: int, onset: int, duration: float) -> NDArray[np.float64]:
    """Progress (T,) of a change: 0 before the onset, then to 1, fast at first.

    So the onset is visible.
    """
    passed = np.clip((np.arange(frames) - onset + 1) / duration, 0, 1)
    return np.asarray(1 - (1 - passed) ** 2, np.float64)


def _film(
    kind: Kind,
    stages: list[ChangeProgress],
    size_px: int,
    drift: Drift,
    random: np.random.Generator,
) -> NDArray[np.uint8]:
    """Render one clip (T, S, S, 3) uint8 RGB."""
    known = list(STAINS.values())
    is_known = random.random() < 0.25
    stain = known[random.integers(len(known))] if is_known else random_stain(random)
    diameter_um, low, high = _SIZES.get(kind, _SIZES["leukocyte"])
    um = diameter_um / (random.uniform(low, high) * size_px)
    side = int(_ROOM * _FINE * size_px) // 2 * 2 + 1
    patch = paint(kind, random, um / _FINE, stain)
    if kind == "erythrocyte":
        look = red_cell(patch, stain, um / _FINE, side, random)
    else:
        look = spreading_cell(patch, kind, side, random)
    drawn = {stage: look(stage) for stage in set(stages)}
    ground = draw_surroundings(
        diameter_um, um, stain, size_px, drift, len(stages), random
    )
    moves = draw_moves(drift, len(stages), _REACH * size_px, random)
    lamp = draw_lamp(drift, len(stages), random)
    blur = np.hypot(_OPTICS_UM / um, draw_focus(drift, len(stages), random))
    noise = drift.noise * random.random()
    film = np.empty((len(stages), size_px, size_px, 3), np.uint8)
    for t, stage in enumerate(stages):
        density = ground[t] + _placed(drawn[stage], moves[t], size_px) + lamp[t]
        light = cv2.GaussianBlur(255 * np.exp(-density), (0, 0), blur[t])
        light += noise * random.standard_normal(light.shape, np.float32)
        film[t] = np.clip(np.rint(light), 0, 255)
    return film


def _placed(drawing: Density, move: NDArray[np.float64], size_px: int) -> Density:
    """Put a drawing (P, P, 3) into a frame (S, S, 3), moved by (x, y, degrees)."""
    middle, centre = (len(drawing) - 1) / 2, (size_px - 1) / 2
    transform = cv2.getRotationMatrix2D((middle, middle), move[2], 1 / _FINE)
    transform[:, 2] += centre - middle + move[:2]
    return np.asarray(
        cv2.warpAffine(drawing, transform, (size_px, size_px)), np.float32
    )
