"""Measure an empty field: black level, flat field, white point. Once, then frozen.

An empty field shows the lamp, the lens and the sensor alone. What is measured there is
applied by `edge.stages.colour_correction` to every frame until the next calibration.
Whether the field is empty, evenly exposed and not saturated is checked first; the
message says what to do when it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.choices import MIN_FRAMES
from edge.errors import HemascopeError
from edge.frames import Counts, RawFrame
from edge.schema.results import Controls
from edge.sources.control_values import differences

PLASMA_DENSITY = 0.07  # of the reference look, base 10: an empty field is 8-bit 217
_BLOCKS = 96  # along the longer side, for the fit
# Points along the longer side of the stored flat field: the outermost lie half a
# point away from the border.
_GRID = 320
_ORDER = 6  # of the polynomial that is fitted to ln(counts)
_FITS = 4  # each leaves out what the last one found uneven
_UNEVEN = 0.03  # of ln(counts): a red cell is ten times as far off, dust is small
_MAX_UNEVEN = 0.01  # share of blocks
_MAX_SATURATED = 1e-3  # share of counts
_BRIGHTEST = 0.35, 0.97  # of full scale: limits of the brightest part of the field
_MAX_DRIFT = 0.02  # of the brightness, from frame to frame
_DARK = 0.1  # of full scale


class FieldRefused(HemascopeError):
    """The frames do not show an empty field, or the light is not right."""


@dataclass(frozen=True, slots=True, eq=False)
class EmptyField:
    """The light of an empty field.

    `black_level` in counts; None where no dark frame was given. `white_point` (3,) RGB,
    counts above black where the field is brightest. `flat_field` (h, w, 3) float32, 0
    to 1, the light over that of the brightest place. `uneven` is the root mean square
    of ln(counts) around the fit, `noise` the standard deviation of a count from frame
    to frame, `full_scale` the largest count of the type. `is_verified` is false where
    the field was estimated from frames with cells.
    """

    black_level: float | None
    white_point: tuple[float, float, float]
    flat_field: NDArray[np.float32]
    uneven: float
    noise: float
    full_scale: int
    is_verified: bool = True


def measure_field(
    frames: Sequence[RawFrame], dark: Sequence[RawFrame] = ()
) -> EmptyField:
    """Measure an empty field.

    Parameters
    ----------
    frames
        At least 16 of empty fields, of the same size, type, exposure and gain. Plasma
        is uneven itself, so the stage should move a little between them.
    dark
        Some with the light off, or none.

    Returns
    -------
    EmptyField
        The flat field is a polynomial of order 6 in ln(counts - black), fitted to the
        mean of the frames with specks of dust left out.

    Raises
    ------
    FieldRefused
        They are too few, differ, are saturated, too dark, or not empty.
    """
    if len(frames) < MIN_FRAMES:
        raise FieldRefused(
            f"{len(frames)} frames, expected at least {MIN_FRAMES} of the same field"
        )
    refuse_mixed([*frames, *dark])
    full_scale = int(np.iinfo(frames[0].pixels.dtype).max)
    black = black_level(dark, full_scale)
    mean, noise = mean_of([frame.pixels for frame in frames])
    refuse_badly_lit(frames, mean - (black or 0.0), full_scale)
    _refuse_unsteady(frames)
    light = np.maximum(mean - (black or 0.0), 0.5)
    blocks = _log_blocks(light, _BLOCKS)
    smooth = fit_light(blocks)
    residual = blocks - smooth.at(blocks.shape[:2])
    uneven = float((np.abs(residual).max(-1) > _UNEVEN).mean())
    if uneven > _MAX_UNEVEN:
        raise FieldRefused(
            f"{uneven:.1%} of the field is not smooth, expected at most "
            f"{_MAX_UNEVEN:.0%}: cells, dust or an edge are in view; move to a place "
            "without cells, clean the glass, and calibrate again"
        )
    white, flat = smooth.as_field(light.shape[:2])
    spread = float(np.sqrt((residual**2).mean()))
    return EmptyField(black, white, flat, spread, noise, full_scale)


@dataclass(frozen=True, slots=True, eq=False)
class SmoothLight:
    """Light over a field: a polynomial of ln(counts) for each channel."""

    terms: tuple[NDArray[np.float64], ...]

    def at(self, size: tuple[int, ...]) -> NDArray[np.float64]:
        """Ln of the light (h, w, 3) at the points of a grid (h, w) over the field."""
        height, width = size
        return np.stack([_shape(fit, (height, width)) for fit in self.terms], -1)

    def as_field(
        self, frame: tuple[int, ...]
    ) -> tuple[tuple[float, float, float], NDArray[np.float32]]:
        """White point (3,) in counts, and flat field (h, w, 3) float32, 0 to 1."""
        log_flat = self.at(sized(frame[0], frame[1], _GRID))
        brightest = log_flat.reshape(-1, 3).max(axis=0)
        red, green, blue = np.exp(brightest).tolist()
        return (red, green, blue), np.exp(log_flat - brightest).astype(np.float32)


def fit_light(blocks: NDArray[np.float64]) -> SmoothLight:
    """Fit the light to ln(counts) of blocks (h, w, 3); specks of dust are left out."""
    return SmoothLight(tuple(_fit(blocks[..., channel]) for channel in range(3)))


def refuse_mixed(frames: Sequence[RawFrame]) -> None:
    """Refuse frames that differ in size, type or camera settings.

    Raises
    ------
    FieldRefused
        Names what differs.
    """
    kinds = {(f.pixels.shape, str(f.pixels.dtype)) for f in frames}
    if len(kinds) > 1:
        raise FieldRefused(f"frames of {sorted(map(str, kinds))}, expected one kind")
    settings = [frame.shot.controls or Controls() for frame in frames]
    for controls in settings:
        changed = differences(settings[0], controls)
        if changed:
            raise FieldRefused(
                f"{', '.join(changed)}, expected the same in all frames; turn what is "
                "automatic in the camera off and calibrate again"
            )


def black_level(dark: Sequence[RawFrame], full_scale: int) -> float | None:
    """Mean counts of dark frames; None if there are none.

    Raises
    ------
    FieldRefused
        They are too bright to be dark.
    """
    if not dark:
        return None
    level = float(np.mean([frame.pixels.mean() for frame in dark]))
    if level > _DARK * full_scale:
        raise FieldRefused(
            f"dark frames have {level:.0f} counts on average, expected below "
            f"{_DARK * full_scale:.0f}; cover the light or the camera"
        )
    return level


def mean_of(frames: Sequence[Counts]) -> tuple[NDArray[np.float64], float]:
    """Mean (H, W, 3) of frames in counts, and the noise of a count.

    The difference of two frames varies by sqrt(2) times the noise of one.
    """
    total = np.zeros(frames[0].shape, np.float64)
    for frame in frames:
        total += frame
    mean = total / len(frames)
    difference = (frames[0].astype(np.float64) - frames[1].astype(np.float64)).std()
    return mean, float(difference / np.sqrt(2))


def refuse_badly_lit(
    frames: Sequence[RawFrame], light: NDArray[np.float64], full_scale: int
) -> None:
    """Refuse frames that are saturated or too dark.

    `light` (H, W, 3) are counts above black.

    Raises
    ------
    FieldRefused
        Says whether to lengthen or to shorten the exposure.
    """
    saturated = max(float((f.pixels == full_scale).mean()) for f in frames)
    if saturated > _MAX_SATURATED:
        raise FieldRefused(
            f"{saturated:.1%} of the counts are saturated at {full_scale}, expected "
            f"at most {_MAX_SATURATED:.1%}; shorten the exposure or dim the lamp"
        )
    level = float(np.percentile(light.max(axis=2), 95)) / full_scale
    low, high = _BRIGHTEST
    if not low <= level <= high:
        change = "lengthen" if level < low else "shorten"
        raise FieldRefused(
            f"the field is at {level:.0%} of full scale, expected {low:.0%} to "
            f"{high:.0%}; {change} the exposure and calibrate again"
        )


def _refuse_unsteady(frames: Sequence[RawFrame]) -> None:
    """Refuse frames between which the brightness changes.

    Raises
    ------
    FieldRefused
        The lamp or the exposure is not constant.
    """
    levels = np.array([frame.pixels[::8, ::8].mean() for frame in frames])
    drift = float(np.ptp(levels) / levels.mean())
    if drift > _MAX_DRIFT:
        raise FieldRefused(
            f"the brightness changes by {drift:.1%} between frames, expected at most "
            f"{_MAX_DRIFT:.0%}; let the lamp warm up, turn automatic exposure off"
        )


def sized(height: int, width: int, longer: int) -> tuple[int, int]:
    """Return height and width of a grid over a frame whose longer side is `longer`."""
    scale = min(1.0, longer / max(height, width))
    return max(8, round(height * scale)), max(8, round(width * scale))


def _log_blocks(light: NDArray[np.float64], longer: int) -> NDArray[np.float64]:
    """Ln of the mean light of blocks, (h, w, 3)."""
    height, width = sized(light.shape[0], light.shape[1], longer)
    small = cv2.resize(light, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(np.log(small), np.float64)


def _fit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit a polynomial to (h, w); what lies far from the last fit gets no weight.

    Returns the coefficients of `_terms`.
    """
    terms = _terms(values.shape[0], values.shape[1])
    target, weight = values.reshape(-1), np.ones(values.size)
    for _ in range(_FITS):
        weighted = terms * weight[:, None]
        fitted = np.linalg.lstsq(weighted, target * weight, rcond=None)[0]
        distance = np.abs(target - terms @ fitted)
        limit = max(_UNEVEN, 3 * float(np.median(distance)))
        weight = (distance <= limit).astype(np.float64)
    return np.asarray(fitted, np.float64)


def _shape(fitted: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Values (h, w) of a fit at the points of a grid over the frame."""
    return (_terms(*size) @ fitted).reshape(size)


def _terms(height: int, width: int) -> NDArray[np.float64]:
    """Products of Legendre polynomials P_i(x) P_j(y), i + j <= 6, (h * w, terms).

    x and y run from -1 to 1 over the frame; the points are the centres of its cells.
    """
    y = (np.arange(height) + 0.5) / height * 2 - 1
    x = (np.arange(width) + 0.5) / width * 2 - 1
    across, down = np.meshgrid(x, y)
    whole = np.polynomial.legendre.legvander2d(across, down, [_ORDER, _ORDER])
    whole = whole.reshape(height * width, _ORDER + 1, _ORDER + 1)
    orders = np.arange(_ORDER + 1)
    i, j = np.nonzero(np.add.outer(orders, orders) <= _ORDER)
    return np.asarray(whole[:, i, j])
