"""Correct colour: one frozen affine map in optical density, the same for every pixel.

Counts become light (Beer-Lambert, a bright field), light becomes optical density, the
density is mapped to the reference look, and comes back as 8-bit RGB:

    T   = (counts - black) / (white_point * flat_field)
    OD' = M @ -log10(T) + offset
    out = 255 * 10**-OD'

No statistics of the frame are used: a cell keeps its colour when the field around it
changes. Computed by a table and `exp` in bands of rows that fit into the processor's
cache, within one grey level of the formula in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.artifacts.profile import IDENTITY, Profile
from edge.frames import Counts
from edge.stages.crops import cut_crops

_BAND_PX = 30_000  # pixels of a band of rows
_COARSE_ERROR = 1.5e-3  # of ln: less than half a grey level
_LN_WHITE = 6.0  # above ln(255)
# Brighter pixels are limited before they are converted: `convertScaleAbs` clips at 255,
# but not above 2**31. ln(2**31) is 21.5.
_LN_OVERFLOW = 20.0
_LN10 = float(np.log(10.0))


@dataclass(frozen=True, slots=True, eq=False)
class ColourMap:
    """One profile made ready for one frame size and type.

    `log_counts` (1, levels) float32: ln(counts - black), floored at half a count.
    `affine` (3, 4) float32: ln of the output from `log_counts` less ln of the flat
    field. `log_flat` (H, W, 3) float32 at full resolution, None where the light is
    even; `coarse_log_flat` (H', W', 3) is the same in fewer pixels, for crops: light
    changes slowly, so the error is below half a grey level, and it fits into the cache.
    `may_overflow`: the brightest counts would come out too bright to be clipped.
    `is_identity`: 8-bit counts come out as they went in.
    """

    log_counts: NDArray[np.float32]
    affine: NDArray[np.float32]
    log_flat: NDArray[np.float32] | None
    coarse_log_flat: NDArray[np.float32] | None
    may_overflow: bool
    is_identity: bool


@lru_cache(maxsize=8)
def prepare(
    profile: Profile, width_px: int, height_px: int, dtype: np.dtype
) -> ColourMap:
    """Make the map of `profile` for frames of this size and type; 8 are kept."""
    full_scale = np.iinfo(dtype).max
    record = profile.record
    counts = np.arange(full_scale + 1, dtype=np.float64)
    log_counts = np.log(np.maximum(counts - record.black_level, 0.5))
    white = np.array(record.white_point or (float(full_scale),) * 3)
    matrix = np.array(record.matrix)
    density_map, offset = matrix[:, :3], matrix[:, 3]
    constant = np.log(255.0) - _LN10 * offset - density_map @ np.log(white)
    log_flat = coarse = None
    if profile.flat_field is not None:
        log_grid = np.log(profile.flat_field)
        log_flat = cv2.resize(log_grid, (width_px, height_px))
        step = _coarsest_step(log_flat)
        coarse = cv2.resize(log_flat, (-(-width_px // step), -(-height_px // step)))
    ends = density_map * log_counts[[0, -1], None, None]  # of the darkest and brightest
    brightest = ends.max(axis=0).sum(axis=1) + constant
    changes_nothing = (
        dtype == np.uint8
        and log_flat is None
        and record.black_level == 0
        and bool((matrix == IDENTITY).all() and (white == full_scale).all())
    )
    return ColourMap(
        log_counts.astype(np.float32)[None],
        np.hstack([density_map, constant[:, None]]).astype(np.float32),
        log_flat,
        coarse,
        bool(brightest.max() > _LN_OVERFLOW),
        changes_nothing,
    )


def _coarsest_step(log_flat: NDArray[np.float32]) -> int:
    """Return by how much the map (H, W, 3) may be reduced: 8, 4, 2 or 1.

    A crop reads the reduced map up to half a step beside the true position.
    """
    steepest = max(
        float(np.abs(np.diff(log_flat, axis=axis)).max(initial=0.0)) for axis in (0, 1)
    )
    for step in (8, 4, 2):
        if steepest * step / 2 <= _COARSE_ERROR:
            return step
    return 1


def correct(counts: Counts, colours: ColourMap) -> NDArray[np.uint8]:
    """Map the sensor counts of a frame to the reference look.

    Parameters
    ----------
    counts
        (H, W, 3) uint8 or uint16 RGB, of the size and type that `colours` was made for.
    colours
        The frozen map.

    Returns
    -------
    NDArray[np.uint8]
        (H, W, 3) RGB. What is brighter than 255 is clipped.
    """
    return _apply(counts, colours, colours.log_flat)


def correct_crops(
    crops: Counts, windows_px: NDArray[np.int32], colours: ColourMap
) -> NDArray[np.uint8]:
    """Map crops cut from the counts at full resolution, through the very same map.

    Parameters
    ----------
    crops
        (N, S, S, 3) uint8 or uint16 RGB sensor counts.
    windows_px
        (N, 4) int32 windows x0, y0, x1, y1 of the frame that they were cut from.
    colours
        The frozen map of the frame that the crops were cut from.

    Returns
    -------
    NDArray[np.uint8]
        (N, S, S, 3) RGB.
    """
    stacked = crops.reshape(-1, *crops.shape[2:])
    flat = None
    if colours.log_flat is not None and colours.coarse_log_flat is not None:
        height, width = np.divide(
            colours.coarse_log_flat.shape, colours.log_flat.shape
        )[:2]
        coarse = np.rint(windows_px * [width, height, width, height]).astype(np.int32)
        coarse[:, 2:] = np.maximum(coarse[:, 2:], coarse[:, :2] + 1)
        flat = cut_crops(colours.coarse_log_flat, coarse, crops.shape[1])
        flat = flat.reshape(stacked.shape)
    return _apply(stacked, colours, flat).reshape(crops.shape)


def _apply(
    counts: Counts, colours: ColourMap, log_flat: NDArray[np.float32] | None
) -> NDArray[np.uint8]:
    """Map counts (H, W, 3) to uint8 RGB; `log_flat` (H, W, 3) is that of each pixel."""
    if colours.is_identity:
        return np.asarray(counts, np.uint8)
    height, width, _ = counts.shape
    out = np.empty(counts.shape, np.uint8)
    rows = max(1, min(_BAND_PX // max(width, 1), height))
    light = np.empty((rows, width, 3), np.float32)
    mapped = np.empty_like(light)
    for top in range(0, height, rows):
        band = slice(top, min(top + rows, height))
        size = band.stop - band.start
        log_light, log_out = light[:size], mapped[:size]
        _look_up(counts[band], colours.log_counts, log_light)
        if log_flat is not None:
            cv2.subtract(log_light, log_flat[band], log_light)
        cv2.transform(log_light, colours.affine, log_out)
        if colours.may_overflow:
            np.minimum(log_out, _LN_WHITE, out=log_out)
        cv2.exp(log_out, log_out)
        cv2.convertScaleAbs(log_out, out[band])
    return out


def _look_up(
    counts: Counts, table: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """Read `table` (1, levels) at every count (h, w, 3), into `out` (h, w, 3).

    OpenCV's LUT is twice as fast on one channel as on three, hence the reshaping.
    """
    rows = counts.shape[0]
    if counts.dtype == np.uint8:
        cv2.LUT(counts.reshape(rows, -1), table, out.reshape(rows, -1))
    else:
        np.take(table[0], counts, out=out)
