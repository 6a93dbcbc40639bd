"""Measure the size of a pixel on a stage micrometer, or on red cells.

A stage micrometer is a slide with rulings at a known distance, often 10 µm. Its lines
are found by the strongest period of the image, then each line by itself. A straight
line, fitted to their positions over their numbers, gives the pixels of one division and
its uncertainty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.artifacts.bundle import LOCATOR, load_bundle
from edge.artifacts.profile import Profile
from edge.engines.opening import open_engine
from edge.errors import HemascopeError
from edge.frames import Counts
from edge.pipeline.scale_reading import read_pixel_size
from edge.schema.pixel_sizes import why_not_sensible
from edge.stages.colour_correction import correct, prepare
from edge.stages.detection import (
    RED_CELL_UM,
    are_whole,
    locate_at,
    locator_spec,
    widths,
)

_MIN_LINES = 5
_MAX_LINES = 200  # a finer pattern comes from the sensor or from a screen
_NEAR_PEAK = 2  # bins of the spectrum around a peak
_MIN_CONTRAST = 6.0  # amplitude of the peak of the spectrum over the median
_MAX_DEVIATION = 0.15  # of a division, root mean square of the lines around the fit
_HARMONIC = 0.4  # power of a lower frequency, over the peak's, that makes it the ruling
_SEARCH_STEPS = 24  # of a search that halves its step where no move helps
_DIRECTIONS = (-1, 0), (1, 0), (0, -1), (0, 1)
_RULER = 1e-3  # relative error of the rulings of a micrometer
_RED_CELL = 0.06  # relative error, 95 %, of a person's mean red-cell diameter
_MIN_CELLS, _MIN_CELLS_OF_IMAGE = 50, 5
_MAX_SCALE_RATIO = 1.3  # of the widest median of an image over the narrowest
_T95 = 2.0  # about Student's t for 95 %, from ten lines on


class ScaleRefused(HemascopeError):
    """No scale can be measured on the images."""


@dataclass(frozen=True, slots=True, eq=False)
class PixelScale:
    """Micrometres per pixel with a 95 % interval, and what it was measured on.

    `found` counts lines or cells. `angle_deg` is the angle between the rows of the
    image and the direction across the lines, 0 for cells. `positions` (N,) are the
    lines' positions in that direction, in pixels; or (N, 4) boxes of the cells of the
    first image.
    """

    um: float
    low_um: float
    high_um: float
    found: int
    angle_deg: float
    positions: NDArray[np.float64]

    def __str__(self) -> str:
        """Write the scale and its interval."""
        return f"{self.um:.5f} µm per pixel ({self.low_um:.5f} to {self.high_um:.5f})"


def measure_rulings(image: NDArray[np.integer], division_um: float) -> PixelScale:
    """Measure the scale on an image of a stage micrometer.

    Parameters
    ----------
    image
        (H, W, 3) or (H, W), any integer type; dark lines on bright or the other way
        round, at any angle.
    division_um
        Distance of neighbouring lines.

    Raises
    ------
    ScaleRefused
        There are no rulings, too few of them, or they are not evenly spaced.
    """
    grey = image.astype(np.float64)
    if grey.ndim == 3:
        grey = grey.mean(axis=2)
    lines = grey - cv2.blur(grey, (1 + 2 * (min(grey.shape) // 8),) * 2)
    frequency = _strongest(lines)
    period_px = 1 / float(np.hypot(*frequency))
    along = frequency * period_px  # the unit vector across the lines, x and y
    positions = _line_positions(lines, along, period_px)
    number = np.rint((positions - positions[0]) / period_px)
    if len(np.unique(number)) < _MIN_LINES:
        raise ScaleRefused(
            f"{len(np.unique(number))} lines, expected at least {_MIN_LINES}; bring "
            "more rulings into view"
        )
    slope, slope_error, deviation = _line(number, positions)
    if deviation > _MAX_DEVIATION * slope:
        raise ScaleRefused(
            f"the lines lie {deviation / slope:.0%} of a division off an even spacing, "
            f"expected at most {_MAX_DEVIATION:.0%}; focus, and show one kind of ruling"
        )
    angle = float(np.degrees(np.arctan2(along[1], along[0])))
    um, share = division_um / slope, float(np.hypot(_T95 * slope_error / slope, _RULER))
    refused = why_not_sensible(um)
    if refused is not None:
        raise ScaleRefused(
            f"lines {division_um:g} µm apart: {refused}; or check --division-um"
        )
    return PixelScale(
        um, um * (1 - share), um * (1 + share), len(positions), angle, positions
    )


def measure_cells(images: Sequence[Counts], profile: Profile) -> PixelScale:
    """Measure the scale on the red cells of a smear, 7.5 µm wide on average.

    The mean diameter of a person's red cells may differ from 7.5 µm. That is part of
    the interval, and it is far more than the error of the measurement.

    Parameters
    ----------
    images
        (H, W, 3) uint8 or uint16 RGB counts, of one objective.
    profile
        Of the microscope.

    Raises
    ------
    ScaleRefused
        They show fewer than 50 whole red cells, or are of different scales.
    """
    locator = load_bundle(LOCATOR, task="location")
    engine, spec = open_engine(locator), locator_spec(locator)
    sizes: list[NDArray[np.float32]] = []
    first = np.zeros((0, 4))
    for counts in images:
        frame_px = (counts.shape[1], counts.shape[0])
        field = correct(counts, prepare(profile, *frame_px, counts.dtype))
        um = read_pixel_size(field, locator, engine)
        if um is None:
            continue
        _, found = locate_at(um, field, engine, spec)
        red = np.array([locator.labels[kind] == "RBC" for kind in found.kinds], bool)
        boxes = found.boxes[red & are_whole(found.boxes, frame_px)]
        first = boxes.astype(np.float64) if not sizes else first
        sizes.append(widths(boxes))
    return _scale_of_cells(sizes, first)


def _scale_of_cells(
    sizes: Sequence[NDArray[np.float32]], boxes: NDArray[np.float64]
) -> PixelScale:
    """Compute the scale from widths (N,) in pixels, one array per image.

    The standard error of a median is 1.2533 times that of a mean; 1.4826 times the
    median absolute deviation is the standard deviation of normal values.

    Raises
    ------
    ScaleRefused
        There are fewer than 50 cells, or the images differ in scale.
    """
    count = sum(map(len, sizes))
    if count < _MIN_CELLS:
        raise ScaleRefused(
            f"{count} whole red cells, expected at least {_MIN_CELLS}; name more "
            "images of the smear"
        )
    medians = np.array(
        [np.median(each) for each in sizes if len(each) >= _MIN_CELLS_OF_IMAGE]
    )
    if len(medians) and medians.max() > _MAX_SCALE_RATIO * medians.min():
        raise ScaleRefused(
            f"red cells are {medians.min():.0f} px wide on one image and "
            f"{medians.max():.0f} px on another, expected the same; name images of one "
            "objective"
        )
    every = np.concatenate(sizes)
    width = float(np.median(every))
    spread = float(np.median(np.abs(every - width))) * 1.4826
    share = float(np.hypot(_T95 * 1.2533 * spread / np.sqrt(count) / width, _RED_CELL))
    um = RED_CELL_UM / width
    return PixelScale(um, um * (1 - share), um * (1 + share), count, 0.0, boxes)


def _strongest(lines: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the frequency (x, y), cycles per pixel, of the rulings in (H, W).

    It is the strongest of the spectrum. But where a half to a fifth of it is strong as
    well, that is the frequency of the rulings and the strongest is a harmonic.

    Raises
    ------
    ScaleRefused
        No frequency is much stronger than the rest.
    """
    height, width = lines.shape
    windowed = lines * np.hanning(height)[:, None] * np.hanning(width)
    power = np.abs(np.fft.rfft2(windowed)) ** 2
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    magnitude = np.hypot(y, x)
    diagonal = float(np.hypot(height, width))
    power[(magnitude < _MIN_LINES / diagonal) | (magnitude > _MAX_LINES / diagonal)] = 0
    row, column = np.unravel_index(int(power.argmax()), power.shape)
    typical = float(np.median(power))
    contrast = float(np.sqrt(power[row, column] / max(typical, 1e-6)))
    if contrast < _MIN_CONTRAST:
        raise ScaleRefused(
            f"no rulings stand out ({contrast:.1f} times the rest, expected above "
            f"{_MIN_CONTRAST:g}); focus on the micrometer, or name another image"
        )
    best = np.array([x[0, column], y[row, 0]])
    for divisor in (2, 3, 4, 5):
        near = np.hypot(x - best[0] / divisor, y - best[1] / divisor)
        near = near < _NEAR_PEAK / min(height, width)
        if power[near].max(initial=0.0) > _HARMONIC * power[row, column]:
            return _refined(windowed, best / divisor)
    return _refined(windowed, best)


def _refined(
    windowed: NDArray[np.float64], frequency: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Search from a bin of the spectrum for the peak between the bins.

    `windowed` (H, W) is the image times a window, `frequency` (2,) x and y in cycles
    per pixel. A step of half a bin goes where the power grows most; where it grows in
    no direction, the step is halved.
    """
    rows, columns = np.arange(windowed.shape[0]), np.arange(windowed.shape[1])

    def power(at: NDArray[np.float64]) -> float:
        across = windowed @ np.exp(-2j * np.pi * at[0] * columns)
        return float(np.abs(across @ np.exp(-2j * np.pi * at[1] * rows)))

    best, reached = frequency, power(frequency)
    step = 0.5 / np.array([windowed.shape[1], windowed.shape[0]])
    for _ in range(_SEARCH_STEPS):
        moves = [best + step * np.array(direction) for direction in _DIRECTIONS]
        powers = [power(move) for move in moves]
        if max(powers) > reached:
            best, reached = moves[int(np.argmax(powers))], max(powers)
        else:
            step = step / 2
    return best


def _line_positions(
    lines: NDArray[np.float64], along: NDArray[np.float64], period_px: float
) -> NDArray[np.float64]:
    """Positions (N,) of the lines in the direction across them, to a part of a pixel.

    `lines` (H, W) is the image without its background, `along` (2,) the unit vector
    across the lines. The image is averaged along the lines, in bins of half a pixel; a
    line is a peak of this profile, and its position the centre of the peak's mass.
    """
    height, width = lines.shape
    y, x = np.mgrid[0:height, 0:width]
    distance = x * along[0] + y * along[1]
    start = float(distance.min())
    bins = np.floor((distance - start) * 2).astype(int)  # half a pixel
    count = np.bincount(bins.reshape(-1))
    profile = np.bincount(bins.reshape(-1), lines.reshape(-1)) / np.maximum(count, 1)
    inner = count > 0.25 * np.median(count)  # in the corners lines are short
    if np.percentile(profile[inner], 99) < -np.percentile(profile[inner], 1):
        profile = -profile  # the lines are dark
    threshold = 0.35 * float(np.percentile(profile[inner], 99))
    reach = max(1, round(0.4 * period_px * 2))
    positions = []
    for peak in np.flatnonzero(inner & (profile > threshold)):
        low, high = max(0, peak - reach), peak + reach + 1
        if profile[peak] < profile[low:high].max():
            continue
        near = np.arange(low, min(high, len(profile)))
        weight = np.maximum(profile[near] - 0.5 * profile[peak], 0)
        positions.append(
            start + (float((near * weight).sum() / weight.sum()) + 0.5) / 2
        )
    return np.array(positions or [0.0])


def _line(
    number: NDArray[np.float64], positions: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Fit a straight line to positions (N,) over the numbers (N,) of the lines.

    Returns its slope, the slope's standard error, and the standard deviation of the
    positions around it.
    """
    centred = number - number.mean()
    slope = float((centred * positions).sum() / (centred**2).sum())
    residual = positions - positions.mean() - slope * centred
    spread = float(np.sqrt((residual**2).sum() / max(1, len(positions) - 2)))
    return slope, spread / float(np.sqrt((centred**2).sum())), spread
