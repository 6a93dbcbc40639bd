"""Cells that change: painted once, then drawn at any progress of a change.

The amount of material stays the same: where a cell spreads it gets thinner, so that
optical density times area is constant. Only lysis removes material.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.simulation.cell_painting import Density, Kind, Stain


class ChangeProgress(NamedTuple):
    """How far each change of a cell has come, from 0 to 1."""

    swollen: float
    lost: float
    spread: float


CellRenderer = Callable[[ChangeProgress], Density]


def red_cell(
    patch: Density, stain: Stain, um: float, side: int, random: np.random.Generator
) -> CellRenderer:
    """Let a painted red cell take up water and lose its haemoglobin.

    Parameters
    ----------
    patch
        (S, S, 3), of odd side, as `paint` gives it.
    stain
        Its dyes.
    um
        Micrometres per pixel.
    side
        Side (px, odd) of the drawings; what lies beyond is cut off.
    random
        How much it swells and how much of it is left.

    Returns
    -------
    CellRenderer
        From a progress to the density (side, side, 3) float32; without progress it is
        the patch.
    """
    colour = np.asarray(stain.haemoglobin, np.float32)
    disc = _centred(patch, side)[..., 1] / colour[1]
    mask = _filled(disc > 0.3)
    inside = cv2.GaussianBlur(cv2.distanceTransform(mask, cv2.DIST_L2, 5), (0, 0), 1)
    dome = (1 - (1 - inside / inside.max()) ** 2) ** 0.3  # flat, without pallor
    membrane = mask * np.exp(-(((inside * um - 0.3) / 0.25) ** 2))
    ghost = membrane + 0.3 * np.clip(inside / 2, 0, 1)
    amount = disc.sum()
    ghost *= random.uniform(0.10, 0.18) * amount / ghost.sum()
    max_growth, middle = random.uniform(1.15, 1.35), (side - 1) / 2

    def render(progress: ChangeProgress) -> Density:
        growth = 1 + (max_growth - 1) * progress.swollen
        body = disc + (dome - disc) * progress.swollen
        body *= amount / body.sum()
        density = (body + (ghost - body) * progress.lost) / growth**2
        scale = cv2.getRotationMatrix2D((middle, middle), 0, growth)
        drawn = cv2.warpAffine(density, scale, (side, side))
        return np.asarray(drawn[..., None] * colour, np.float32)

    return render


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Fill the outline of a cell: a pale centre is part of it."""
    filled = np.asarray(mask, np.uint8)
    around, _ = cv2.findContours(filled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(filled, around, -1, 1, cv2.FILLED), np.uint8)


def spreading_cell(
    patch: Density, kind: Kind, side: int, random: np.random.Generator
) -> CellRenderer:
    """Let a painted cell spread: a thin hem, pseudopods, granules drawn inwards.

    Parameters
    ----------
    patch
        (S, S, 3), of odd side, as `paint` gives it.
    kind
        Platelets put out spikes, white cells few broad arms.
    side
        Side (px, odd) of the drawings.
    random
        How far it spreads, and where its arms are.
    """
    cell = _centred(patch, side)
    middle = (side - 1) / 2
    axis = np.arange(side, dtype=np.float32) - middle
    x, y = np.meshgrid(axis, axis)
    far, angle = np.hypot(x, y), np.arctan2(y, x)
    is_platelet = kind == "platelet"
    radius = np.sqrt((cell.max(axis=2) > 0.1 * cell.max()).sum() / np.pi)
    hem = random.uniform(0.15, 0.35) if is_platelet else random.uniform(0.05, 0.15)
    pulled = random.uniform(0.35, 0.6) if is_platelet else 0.1
    arms = _arms(angle, is_platelet, random)
    amount = cell.sum()

    def render(progress: ChangeProgress) -> Density:
        if progress.spread == 0:
            return cell
        out = np.clip(2 * progress.spread - arms.begin, 0, 1)
        round_growth = 1 + hem * progress.spread
        share = np.clip(far / (radius * round_growth), 1e-6, 1)
        growth = round_growth + share**2 * np.tensordot(out, arms.shapes, 1)
        share = np.clip(far / (radius * growth), 1e-6, 1)
        source = np.asarray(share ** (-pulled * progress.spread) / growth, np.float32)
        from_x, from_y = (middle + axis * source for axis in (x, y))
        drawn = cv2.remap(cell, from_x, from_y, cv2.INTER_LINEAR)
        drawn *= np.clip(_area_ratio(from_x, from_y), 0.5, 1.6)[..., None]
        return np.asarray(drawn * (amount / drawn.sum()), np.float32)

    return render


def _area_ratio(from_x: Density, from_y: Density) -> Density:
    """Area that each pixel of a map is filled from: material thins where it spreads."""
    x_down, x_across = np.gradient(from_x)
    y_down, y_across = np.gradient(from_y)
    return np.asarray(x_across * y_down - x_down * y_across, np.float32)


class _Arms(NamedTuple):
    """Pseudopods: when each begins, (K,), and its `shapes` (K, side, side)."""

    begin: NDArray[np.float64]
    shapes: Density


def _arms(angle: Density, is_platelet: bool, random: np.random.Generator) -> _Arms:
    """Draw thin spikes all around a platelet, or few broad pseudopods."""
    count = int(random.integers(5, 10) if is_platelet else random.integers(2, 5))
    low, high = (0.3, 0.8) if is_platelet else (0.2, 0.45)
    thin, broad = (0.10, 0.22) if is_platelet else (0.25, 0.5)
    at = 2 * np.pi * (np.arange(count) + random.uniform(-0.35, 0.35, count)) / count
    off = np.angle(np.exp(1j * (angle - at[:, None, None])))
    width = random.uniform(thin, broad, count)[:, None, None]
    length = random.uniform(low, high, count)[:, None, None]
    shapes = np.asarray(length * np.exp(-((off / width) ** 2)), np.float32)
    return _Arms(random.uniform(0, 1, count), shapes)


def _centred(patch: Density, side: int) -> Density:
    """Pad or cut a patch of odd side evenly to `side`."""
    room = (side - len(patch)) // 2
    if room < 0:
        return patch[-room:room, -room:room]
    return np.pad(patch, ((room, room), (room, room), (0, 0)))
