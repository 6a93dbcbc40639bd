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

from edge.errors import HemascopeError
from edge.frames import Counts, RawFrame
from edge.schema.results import Controls
from edge.sources.control_values import differences

LEAST_FRAMES = 16
PLASMA_DENSITY = 0.07  # of the reference look, base 10: an empty field is 8-bit 217
_BLOCKS = 96  # the longer side, for the fit
_GRID = 320  # the longer side of the stored flat field: its border is half a cell off
_ORDER = 6  # of the polynomial in ln of the counts
_FITS = 4  # each leaves out what the last one found uneven
_UNEVEN = 0.03  # of ln: a red cell is ten times as dark, dust is small
_MOST_UNEVEN = 0.01  # share of blocks
_MOST_SATURATED = 1e-3  # share of counts
_WINDOW = 0.35, 0.97  # of full scale, where the field is brightest
_MOST_DRIFT = 0.02  # of the brightness, from frame to frame
_DARK = 0.1  # of full scale


class FieldRefused(HemascopeError):
    """The frames show no empty field that a microscope could be calibrated by."""


@dataclass(frozen=True, slots=True, eq=False)
class EmptyField:
    """What an empty field is like.

    `black_level` in counts; None where no dark frame was seen. `white_point` (3,)
    counts above black where the field is brightest. `flat_field` (h, w, 3) float32, the
    share of that elsewhere. `uneven` is the root mean square of ln(counts) around the
    fit, `noise` the standard deviation of a count in time; `full_scale` that of the
    counts' type. `is_verified`: an empty field was seen, not guessed.
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
        At least 16 of empty fields, of the same size, type, exposure and gain; plasma
        is not even itself, so the stage had better move between them.
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
    if len(frames) < LEAST_FRAMES:
        raise FieldRefused(
            f"{len(frames)} frames, expected at least {LEAST_FRAMES} of the same field"
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
    rest = blocks - smooth.at(blocks.shape[:2])
    uneven = float((np.abs(rest).max(-1) > _UNEVEN).mean())
    if uneven > _MOST_UNEVEN:
        raise FieldRefused(
            f"{uneven:.1%} of the field is not smooth, expected at most "
            f"{_MOST_UNEVEN:.0%}: cells, dust or an edge are in view; move to a place "
            "without cells, clean the glass, and calibrate again"
        )
    white, flat = smooth.as_field(light.shape[:2])
    spread = float(np.sqrt((rest**2).mean()))
    return EmptyField(black, white, flat, spread, noise, full_scale)


@dataclass(frozen=True, slots=True, eq=False)
class SmoothLight:
    """Light over a field: a polynomial of ln(counts) for each channel."""

    terms: tuple[NDArray[np.float64], ...]

    def at(self, size: tuple[int, ...]) -> NDArray[np.float64]:
        """Ln of the light (h, w, 3) at the centres of so many cells of the field."""
        height, width = size
        return np.stack([_shape(fit, (height, width)) for fit in self.terms], -1)

    def as_field(
        self, frame: tuple[int, ...]
    ) -> tuple[tuple[float, float, float], NDArray[np.float32]]:
        """White point, counts where it is brightest, and flat field (h, w, 3)."""
        log_flat = self.at(sized(frame[0], frame[1], _GRID))
        brightest = log_flat.reshape(-1, 3).max(axis=0)
        red, green, blue = np.exp(brightest).tolist()
        return (red, green, blue), np.exp(log_flat - brightest).astype(np.float32)


def fit_light(blocks: NDArray[np.float64]) -> SmoothLight:
    """Fit the light to ln(counts) of blocks (h, w, 3), specks left out."""
    return SmoothLight(tuple(_fit(blocks[..., channel]) for channel in range(3)))


def refuse_mixed(frames: Sequence[RawFrame]) -> None:
    """Refuse frames that were not taken alike."""
    kinds = {(f.pixels.shape, str(f.pixels.dtype)) for f in frames}
    if len(kinds) > 1:
        raise FieldRefused(f"frames of {sorted(map(str, kinds))}, expected one kind")
    told = [frame.shot.controls or Controls() for frame in frames]
    for controls in told:
        found = differences(told[0], controls)
        if found:
            raise FieldRefused(
                f"{', '.join(found)}, expected the same in all frames; turn what is "
                "automatic in the camera off and calibrate again"
            )


def black_level(dark: Sequence[RawFrame], full_scale: int) -> float | None:
    """Mean counts of dark frames; None of none."""
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
    """Return the mean of frames, and the standard deviation of a count in time."""
    total = np.zeros(frames[0].shape, np.float64)
    for frame in frames:
        total += frame
    mean = total / len(frames)
    apart = (frames[0].astype(np.float64) - frames[1].astype(np.float64)).std()
    return mean, float(apart / np.sqrt(2))


def refuse_badly_lit(
    frames: Sequence[RawFrame], light: NDArray[np.float64], full_scale: int
) -> None:
    """Refuse what is saturated or too dark; `light` is counts above black."""
    saturated = max(float((f.pixels == full_scale).mean()) for f in frames)
    if saturated > _MOST_SATURATED:
        raise FieldRefused(
            f"{saturated:.1%} of the counts are saturated at {full_scale}, expected "
            f"at most {_MOST_SATURATED:.1%}; shorten the exposure or dim the lamp"
        )
    level = float(np.percentile(light.max(axis=2), 95)) / full_scale
    low, high = _WINDOW
    if not low <= level <= high:
        change = "lengthen" if level < low else "shorten"
        raise FieldRefused(
            f"the field is at {level:.0%} of full scale, expected {low:.0%} to "
            f"{high:.0%}; {change} the exposure and calibrate again"
        )


def _refuse_unsteady(frames: Sequence[RawFrame]) -> None:
    levels = np.array([frame.pixels[::8, ::8].mean() for frame in frames])
    drift = float(np.ptp(levels) / levels.mean())
    if drift > _MOST_DRIFT:
        raise FieldRefused(
            f"the brightness changes by {drift:.1%} between frames, expected at most "
            f"{_MOST_DRIFT:.0%}; let the lamp warm up, turn automatic exposure off"
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
    """Fit a polynomial to (h, w); what lies far from the last fit does not count."""
    terms = _terms(values.shape[0], values.shape[1])
    wanted, weight = values.reshape(-1), np.ones(values.size)
    for _ in range(_FITS):
        weighted = terms * weight[:, None]
        fitted = np.linalg.lstsq(weighted, wanted * weight, rcond=None)[0]
        off = np.abs(wanted - terms @ fitted)
        weight = (off <= max(_UNEVEN, 3 * float(np.median(off)))).astype(np.float64)
    return np.asarray(fitted, np.float64)


def _shape(fitted: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """(h, w) values of a fit at the centres of so many cells of the frame."""
    return (_terms(*size) @ fitted).reshape(size)


def _terms(height: int, width: int) -> NDArray[np.float64]:
    """Legendre polynomials x^i y^j, i + j <= order, at the centres of (h, w) cells."""
    y = (np.arange(height) + 0.5) / height * 2 - 1
    x = (np.arange(width) + 0.5) / width * 2 - 1
    across, down = np.meshgrid(x, y)
    whole = np.polynomial.legendre.legvander2d(across, down, [_ORDER, _ORDER])
    whole = whole.reshape(height * width, _ORDER + 1, _ORDER + 1)
    orders = np.arange(_ORDER + 1)
    i, j = np.nonzero(np.add.outer(orders, orders) <= _ORDER)
    return np.asarray(whole[:, i, j])
