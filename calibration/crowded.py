"""Estimate flat field and plasma colour from frames that show cells.

For slides without an empty place. In many frames of different places, each pixel shows
plasma in some frames; the brightest values of a pixel over all frames are the light.
This is less certain than an empty field, so the profile is marked as unverified.
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

MIN_CROWDED = 12
_BLOCKS = 192  # along the longer side: a block is smaller than a red cell
_PLASMA = 75  # percentile over frames: every place shows plasma a quarter of the time
_MIN_CHANGE = 0.02  # of ln(counts), over the frames, where cells come and go
_MAX_COVERED = 0.5  # share of blocks that never showed plasma
_COVERED = 0.12  # of ln(counts): a block this far below the fit never showed plasma


def measure_crowded_field(
    frames: Sequence[RawFrame], dark: Sequence[RawFrame] = ()
) -> EmptyField:
    """Estimate what an empty field would look like.

    Parameters
    ----------
    frames
        At least 12 of different places, of the same size, type, exposure and gain.
    dark
        Some with the light off, or none.

    Returns
    -------
    EmptyField
        With `is_verified` false.

    Raises
    ------
    FieldRefused
        They are too few, differ, show the same place, are saturated, too dark, or so
        crowded that plasma was hardly seen.
    """
    if len(frames) < MIN_CROWDED:
        raise FieldRefused(
            f"{len(frames)} frames with cells, expected at least {MIN_CROWDED} of "
            "different places; move the stage between them"
        )
    refuse_mixed([*frames, *dark])
    full_scale = int(np.iinfo(frames[0].pixels.dtype).max)
    black = black_level(dark, full_scale)
    height, width = frames[0].pixels.shape[:2]
    log_light = np.stack([_blocks(f.pixels, black or 0.0) for f in frames])
    _refuse_still(log_light)
    refuse_badly_lit(frames, np.exp(log_light.max(axis=0)), full_scale)
    plasma = np.percentile(log_light, _PLASMA, axis=0)
    smooth = fit_light(plasma)
    residual = plasma - smooth.at(plasma.shape[:2])
    covered = float((residual.max(-1) < -_COVERED).mean())
    if covered > _MAX_COVERED:
        raise FieldRefused(
            f"{covered:.0%} of the field never showed plasma, expected at most "
            f"{_MAX_COVERED:.0%}; take more frames, where cells lie apart"
        )
    white, flat = smooth.as_field((height, width))
    noise = mean_of([frame.pixels for frame in frames[:2]])[1]
    spread = float(np.sqrt((residual**2).mean()))
    return EmptyField(black, white, flat, spread, noise, full_scale, is_verified=False)


def _blocks(counts: Counts, black: float) -> NDArray[np.float64]:
    """Ln of the counts above black (h, w, 3), averaged over blocks of (H, W, 3)."""
    height, width = sized(counts.shape[0], counts.shape[1], _BLOCKS)
    light = cv2.resize(
        counts.astype(np.float32) - black, (width, height), interpolation=cv2.INTER_AREA
    )
    return np.asarray(np.log(np.maximum(light, 0.5)), np.float64)


def _refuse_still(log_light: NDArray[np.float64]) -> None:
    """Refuse frames of one place, as its cells would be taken for uneven light.

    `log_light` (N, h, w, 3) is ln of the counts of each frame.

    Raises
    ------
    FieldRefused
        Hardly any block changes from frame to frame.
    """
    change = float(np.percentile(log_light[..., 1].std(axis=0), 75))
    if change < _MIN_CHANGE:
        raise FieldRefused(
            f"most places change by {change:.1%} from frame to frame, expected at "
            f"least {_MIN_CHANGE:.0%}: the frames show one place; move the stage while "
            "they are taken"
        )
