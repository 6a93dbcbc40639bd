"""Estimate flat field and plasma colour from frames that show cells.

For slides without an empty place. In many frames of different places every pixel is
plasma sometimes; what is brightest there over the frames is the light. Less sure than
an empty field, so a profile made of it is marked unverified.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.field import (
    EmptyField,
    FieldRefused,
    black_level,
    fit_light,
    mean_of,
    refuse_badly_lit,
    refuse_mixed,
    sized,
)
from edge.frames import Counts, RawFrame

LEAST_CROWDED = 12
_BLOCKS = 192  # the longer side: a block is smaller than a red cell
_PLASMA = 75  # percentile over frames: cells cover less than that of any place
_LEAST_CHANGE = 0.02  # of ln, from frame to frame, where cells come and go
_MOST_COVERED = 0.5  # share of blocks where plasma seems never to have been seen
_DARKER = 0.12  # of ln, below the fit: there it was not


def measure_crowded_field(
    frames: Sequence[RawFrame], dark: Sequence[RawFrame] = ()
) -> EmptyField:
    """Estimate what an empty field would be like.

    Parameters
    ----------
    frames
        At least 12 of different places, of the same size, type, exposure and gain.
    dark
        Some with the light off, or none.

    Raises
    ------
    FieldRefused
        They are too few, differ, show the same place, are saturated, too dark, or so
        crowded that plasma was hardly seen.
    """
    if len(frames) < LEAST_CROWDED:
        raise FieldRefused(
            f"{len(frames)} frames with cells, expected at least {LEAST_CROWDED} of "
            "different places; move the stage between them"
        )
    refuse_mixed([*frames, *dark])
    full_scale = int(np.iinfo(frames[0].pixels.dtype).max)
    black = black_level(dark, full_scale)
    height, width = frames[0].pixels.shape[:2]
    small = np.stack([_blocks(f.pixels, black or 0.0) for f in frames])
    _refuse_standing(small)
    refuse_badly_lit(frames, np.exp(small.max(axis=0)), full_scale)
    plasma = np.percentile(small, _PLASMA, axis=0)
    smooth = fit_light(plasma)
    rest = plasma - smooth.at(plasma.shape[:2])
    covered = float((rest.max(-1) < -_DARKER).mean())
    if covered > _MOST_COVERED:
        raise FieldRefused(
            f"{covered:.0%} of the field never showed plasma, expected at most "
            f"{_MOST_COVERED:.0%}; take more frames, where cells lie apart"
        )
    white, flat = smooth.as_field((height, width))
    noise = mean_of([frame.pixels for frame in frames[:2]])[1]
    spread = float(np.sqrt((rest**2).mean()))
    return EmptyField(black, white, flat, spread, noise, full_scale, is_verified=False)


def _blocks(counts: Counts, black: float) -> NDArray[np.float64]:
    """Ln of the light of blocks (h, w, 3)."""
    height, width = sized(counts.shape[0], counts.shape[1], _BLOCKS)
    light = cv2.resize(
        counts.astype(np.float32) - black, (width, height), interpolation=cv2.INTER_AREA
    )
    return np.asarray(np.log(np.maximum(light, 0.5)), np.float64)


def _refuse_standing(small: NDArray[np.float64]) -> None:
    """Refuse frames of one place: its cells would become the light."""
    moves = float(np.percentile(small[..., 1].std(axis=0), 75))
    if moves < _LEAST_CHANGE:
        raise FieldRefused(
            f"most places change by {moves:.1%} from frame to frame, expected at least "
            f"{_LEAST_CHANGE:.0%}: the frames show one place; move the stage while "
            "they are taken"
        )
