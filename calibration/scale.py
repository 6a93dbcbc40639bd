"""Measure the size of a pixel on a stage micrometer, or on red cells.

A stage micrometer is a slide with rulings at a known distance, often 10 µm. Its lines
are found by the strongest period of the image, then each line by itself; a straight
line through their places gives the pixels of one division and how sure that is.
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
from edge.pipeline.pixel_size import read_pixel_size
from edge.stages.colour_correction import correct, prepare
from edge.stages.detection import (
    RED_CELL_UM,
    are_whole,
    locate_at,
    locator_spec,
    widths,
)

_LEAST_LINES = 5
_MOST_LINES = 200  # closer ones are the sensor's or the screen's
_NEAR_PEAK = 2  # bins of the spectrum
_LEAST_CONTRAST = 6.0  # the peak of the spectrum over its typical value
_MOST_OFF = 0.15  # of a division, root mean square of the lines around the fit
_HARMONIC = 0.4  # a half of the frequency counts from this share of the power on
_CLIMBS = 24  # of a search that halves its step where no move helps
_WAYS = (-1, 0), (1, 0), (0, -1), (0, 1)
_RULER = 1e-3  # how far the rulings of a micrometer may be off themselves
_RED_CELL = 0.06  # 95 %: how far the mean diameter of a person's red cells may be off
_LEAST_CELLS, _FEW = 50, 5
_SAME_SCALE = 1.3  # of the widest over the narrowest median of an image
_T95 = 2.0  # of Student's distribution, about, from ten lines on


class ScaleRefused(HemascopeError):
    """No scale can be read off what was given."""


@dataclass(frozen=True, slots=True, eq=False)
class PixelScale:
    """Micrometres per pixel with its 95 % interval, and what it was read off.

    `found` counts lines or cells; `angle_deg` is that of the rulings' normal to the
    rows, 0 of cells; `places` are (N,) pixels of the lines along that normal, or (N, 4)
    boxes of the cells of the first image.
    """

    um: float
    low_um: float
    high_um: float
    found: int
    angle_deg: float
    places: NDArray[np.float64]

    def __str__(self) -> str:
        """Say it for people."""
        return f"{self.um:.5f} µm per pixel ({self.low_um:.5f} to {self.high_um:.5f})"


def measure_rulings(image: NDArray[np.integer], division_um: float) -> PixelScale:
    """Read the scale off an image of a stage micrometer.

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
    places = _line_places(lines, along, period_px)
    number = np.rint((places - places[0]) / period_px)
    if len(np.unique(number)) < _LEAST_LINES:
        raise ScaleRefused(
            f"{len(np.unique(number))} lines, expected at least {_LEAST_LINES}; bring "
            "more rulings into view"
        )
    slope, spread, off = _line(number, places)
    if off > _MOST_OFF * slope:
        raise ScaleRefused(
            f"the lines lie {off / slope:.0%} of a division off an even spacing, "
            f"expected at most {_MOST_OFF:.0%}; focus, and show one kind of ruling"
        )
    angle = float(np.degrees(np.arctan2(along[1], along[0])))
    um, share = division_um / slope, float(np.hypot(_T95 * spread / slope, _RULER))
    return PixelScale(
        um, um * (1 - share), um * (1 + share), len(places), angle, places
    )


def measure_cells(images: Sequence[Counts], profile: Profile) -> PixelScale:
    """Read the scale off the red cells of a smear, 7.5 µm wide on average.

    The interval holds what a person's mean diameter may be off that as well, which
    is far more than the measurement.

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
    count = sum(map(len, sizes))
    if count < _LEAST_CELLS:
        raise ScaleRefused(
            f"{count} whole red cells, expected at least {_LEAST_CELLS}; name more "
            "images of the smear"
        )
    medians = np.array([np.median(each) for each in sizes if len(each) >= _FEW])
    if len(medians) and medians.max() > _SAME_SCALE * medians.min():
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
    """Return the frequency (x, y), cycles per pixel, of the strongest period.

    Where its half is strong too, that is the rulings' and the other its harmonic.
    """
    height, width = lines.shape
    seen = lines * np.hanning(height)[:, None] * np.hanning(width)
    power = np.abs(np.fft.rfft2(seen)) ** 2
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    size = np.hypot(y, x)
    diagonal = float(np.hypot(height, width))
    power[(size < _LEAST_LINES / diagonal) | (size > _MOST_LINES / diagonal)] = 0
    row, column = np.unravel_index(int(power.argmax()), power.shape)
    typical = float(np.median(power))
    contrast = float(np.sqrt(power[row, column] / max(typical, 1e-6)))
    if contrast < _LEAST_CONTRAST:
        raise ScaleRefused(
            f"no rulings stand out ({contrast:.1f} times the rest, expected above "
            f"{_LEAST_CONTRAST:g}); focus on the micrometer, or name another image"
        )
    best = np.array([x[0, column], y[row, 0]])
    for part in (2, 3, 4, 5):
        near = np.hypot(x - best[0] / part, y - best[1] / part)
        near = near < _NEAR_PEAK / min(height, width)
        if power[near].max(initial=0.0) > _HARMONIC * power[row, column]:
            return _refined(seen, best / part)
    return _refined(seen, best)


def _refined(
    seen: NDArray[np.float64], frequency: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Climb from a bin of the spectrum to the peak beside it."""
    rows, columns = np.arange(seen.shape[0]), np.arange(seen.shape[1])

    def power(at: NDArray[np.float64]) -> float:
        across = seen @ np.exp(-2j * np.pi * at[0] * columns)
        return float(np.abs(across @ np.exp(-2j * np.pi * at[1] * rows)))

    best, reached = frequency, power(frequency)
    step = 0.5 / np.array([seen.shape[1], seen.shape[0]])
    for _ in range(_CLIMBS):
        moves = [best + step * np.array(way) for way in _WAYS]
        powers = [power(move) for move in moves]
        if max(powers) > reached:
            best, reached = moves[int(np.argmax(powers))], max(powers)
        else:
            step = step / 2
    return best


def _line_places(
    lines: NDArray[np.float64], along: NDArray[np.float64], period_px: float
) -> NDArray[np.float64]:
    """Places (N,) of the lines across them, to a part of a pixel."""
    height, width = lines.shape
    y, x = np.mgrid[0:height, 0:width]
    where = x * along[0] + y * along[1]
    start = float(where.min())
    bins = np.floor((where - start) * 2).astype(int)  # half a pixel
    count = np.bincount(bins.reshape(-1))
    profile = np.bincount(bins.reshape(-1), lines.reshape(-1)) / np.maximum(count, 1)
    inner = count > 0.25 * np.median(count)  # corners see little of a line
    if np.percentile(profile[inner], 99) < -np.percentile(profile[inner], 1):
        profile = -profile  # dark lines
    least = 0.35 * float(np.percentile(profile[inner], 99))
    reach = max(1, round(0.4 * period_px * 2))
    places = []
    for peak in np.flatnonzero(inner & (profile > least)):
        low, high = max(0, peak - reach), peak + reach + 1
        if profile[peak] < profile[low:high].max():
            continue
        near = np.arange(low, min(high, len(profile)))
        weight = np.maximum(profile[near] - 0.5 * profile[peak], 0)
        places.append(start + (float((near * weight).sum() / weight.sum()) + 0.5) / 2)
    return np.array(places or [0.0])


def _line(
    number: NDArray[np.float64], places: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Slope of a straight line, its standard error, and the spread around it."""
    centred = number - number.mean()
    slope = float((centred * places).sum() / (centred**2).sum())
    rest = places - places.mean() - slope * centred
    spread = float(np.sqrt((rest**2).sum() / max(1, len(places) - 2)))
    return slope, spread / float(np.sqrt((centred**2).sum())), spread
