"""Changes of a simulated clip that are not of the cell: position, focus, lamp."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Drift:
    """How much changes in a clip besides the cell itself.

    `step_px`: standard deviation of the random walk; `drift_px`: fastest steady drift;
    `turn_deg`: standard deviation of the rate of rotation, all three per frame.
    `focus_px`: greatest blur (sigma). `lamp`: step and trend of brightness per frame,
    natural optical density; the white point takes less than half of it. `noise`:
    greatest standard deviation in grey levels. `neighbours`: mean number per clip.
    `veil`: unevenness of the plasma, natural optical density.
    """

    step_px: float = 0.5
    drift_px: float = 1.5
    turn_deg: float = 3.0
    focus_px: float = 2.0
    lamp: float = 0.02
    noise: float = 6.0
    neighbours: float = 2.2
    veil: float = 0.008


DRIFTING = Drift()
STILL = Drift(0, 0, 0, 0, 0, 0, 0, 0)


def draw_moves(
    drift: Drift, frames: int, reach_px: float, random: np.random.Generator
) -> NDArray[np.float64]:
    """Draw the position and rotation (T, 3) of each frame: x, y in pixels, degrees."""
    direction = random.uniform(0, 2 * np.pi)
    speed = drift.drift_px * random.random() * (random.random() < 0.5)
    steps = drift.step_px * random.normal(0, 1, (frames, 2))
    steps += speed * np.array([np.cos(direction), np.sin(direction)])
    steps[0] = drift.step_px * random.normal(0, 3, 2)
    positions = _reflected(steps.cumsum(axis=0), -reach_px, reach_px)
    rate = drift.turn_deg * random.normal()
    angles = random.uniform(0, 360) + rate * np.arange(frames)
    return np.column_stack([positions, angles])


def draw_focus(
    drift: Drift, frames: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """Draw the blur (T,) of each frame: sigma in pixels."""
    steps = random.normal(0, 0.12, frames)
    steps[0] = random.random()
    return drift.focus_px * _reflected(steps.cumsum(), 0, 1)


def draw_lamp(
    drift: Drift, frames: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """Draw the natural optical density (T, 3) that the lamp adds in each frame, RGB."""
    level = random.uniform(-1, 1) + random.normal(0, 1, frames)
    white = random.uniform(-0.3, 0.3, 3) + random.normal(0, 0.3, (frames, 3))
    steps = level[:, None] + white
    steps[0] = 4 + random.normal(0, 3) + random.normal(0, 2, 3)
    return _reflected(drift.lamp * steps.cumsum(axis=0), 0, 0.5)


def _reflected(
    path: NDArray[np.float64], low: float, high: float
) -> NDArray[np.float64]:
    """Reflect a path, (T,) or (T, C), at its bounds."""
    span = high - low
    return np.asarray(low + span - np.abs((path - low) % (2 * span) - span))
