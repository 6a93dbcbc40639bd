"""Check that a picture is a field of a stained smear, before its cells are named.

Each figure has one limit that holds for every laboratory. A picture beyond it is said
to be no smear, or is believed with a doubt. The limits leave room around what 985
real fields of seven sources show; `docs/differential.md` has the ranges, and
`python -m export.benchmark.slide.field_check` measures them again.

Whether red and blue are exchanged no single figure tells: stains and cameras differ
more than the two orders do. So the colours of background, cells and nuclei are compared
with those of known laboratories, in both orders. Unknown colours are not judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.frames import Counts
from edge.schema.results import Fault, Quality
from edge.stages.detection import Regions
from edge.stages.image_quality import MIN_BRIGHTNESS, MIN_FOCUS

# What real fields show, from the lowest to the highest, and the limit.
_MAX_UNEVEN = 0.15  # 0.004 to 0.11
_MIN_STAINED = 0.2  # 0.38 to 1, single crops from 0.09
_MIN_DARKER = 0.15  # 0.19 to 1
_MIN_COLOUR = 10.0  # 27 to 136, thick smears from 21
_MAX_COLOUR = 160.0
_MAX_TINT = 0.6  # 0 to 0.34, single crops to 0.51
_MIN_LIKENESS = 0.48  # 0.515 to 0.89
_MAX_TEXTURE = 0.02  # with so few cells; 0.013 and more with many
_MIN_BRIGHTNESS = 0.48  # 0.51 to 0.94
_MIN_SHARP = 0.13  # val 0.143 and more, test 0.133 and more: drawn with both in sight
_FEW_CELLS = 8  # 12 and more where they hide the background
_MIN_CELLS = 3  # fewer say nothing about all
_MIN_OUTSIDE = 50  # of one in 16 pixels, outside of cells; fewer are no background
_DARKER = 0.03  # optical density of a cell above the background
_KNOWN = 0.5  # distance in colour from a laboratory whose colours are known
_TIMES_FARTHER = 2.0  # as it is, than with red and blue exchanged


Limits = tuple[tuple[str, float | None, Literal["least", "most"], float], ...]


@dataclass(frozen=True, slots=True, eq=False)
class KnownColours:
    """Colours of fields of known laboratories.

    `points` (N, 8) float64, see `colour_point`; `spread` (8,) is the standard deviation
    of each column over all fields.
    """

    points: NDArray[np.float64]
    spread: NDArray[np.float64]

    def distance(self, point: NDArray[np.float64]) -> float:
        """Root mean square distance of `point` (8,) from the nearest known one."""
        steps = (self.points - point) / self.spread
        return float(np.sqrt((steps**2).mean(axis=1)).min(initial=np.inf))


@dataclass(frozen=True, slots=True, eq=False)
class FieldFigures:
    """What tells a smear from other pictures; None where there is too little to see.

    `cells` is the number of cells found. `uneven`: median absolute deviation of green
    outside of cells, over its median. `stained`: share of cells that take away more
    green light than red. `darker`: share of cells that are darker than the background.
    `colour`: 95th percentile of the largest less the smallest channel, grey levels.
    `tint`: the same of the background, over its largest channel. `likeness`: median
    probability that the locator gives the cells. `colours` (8,): see `colour_point`.
    """

    cells: int
    uneven: float | None
    stained: float | None
    darker: float | None
    colour: float
    tint: float
    likeness: float | None
    colours: NDArray[np.float64] | None


@dataclass(frozen=True, slots=True)
class FieldDoubt:
    """Why a picture is not to be believed: figure, limit, remedy.

    `fault` is None for a doubt; otherwise the picture is rejected for it.
    """

    reason: str
    fault: Fault | None = None


def measure_field(
    field: NDArray[np.uint8], boxes: NDArray[np.float32], regions: Regions
) -> FieldFigures:
    """Measure a reduced, corrected frame.

    Parameters
    ----------
    field
        (h, w, 3) uint8 RGB.
    boxes
        (N, 4) of the cells, in pixels of `field`.
    regions
        The cells that the locator found.
    """
    outside = np.ones(field.shape[:2], np.uint8)
    for x0, y0, x1, y1 in np.rint(boxes).astype(int).tolist():
        cv2.rectangle(outside, (x0 - 1, y0 - 1), (x1, y1), 0, cv2.FILLED)
    coarse = np.ascontiguousarray(field[::4, ::4])
    around = coarse[outside[::4, ::4] > 0]
    coarse = coarse.reshape(-1, 3)
    darkest, background = quantile(coarse, 0.01), quantile(coarse, 0.9)
    uneven = None
    if len(around) >= _MIN_OUTSIDE:
        background = quantile(around, 0.5)
        spread = float(quantile(np.abs(around[:, 1] - background[1]), 0.5))
        uneven = spread / max(float(background[1]), 1.0)
    most, least = coarse.max(axis=1), coarse.min(axis=1)
    stained = darker = likeness = colours = None
    if len(boxes) >= _MIN_CELLS:
        density = _densities(field, boxes, background)
        stained = float((density[:, 1] > density[:, 0]).mean())
        darker = float((density[:, 1] > _DARKER).mean())
        likeness = float(np.median(regions.scores))
        colours = colour_point(background, density, darkest)
    return FieldFigures(
        cells=len(boxes),
        uneven=uneven,
        stained=stained,
        darker=darker,
        colour=float(quantile(most - least, 0.95)),
        tint=float((background.max() - background.min()) / max(background.max(), 1.0)),
        likeness=likeness,
        colours=colours,
    )


def quantile(values: NDArray[Any], share: float) -> NDArray[np.float64]:
    """Return the value below which a `share` of each column of (N,) or (N, K) lies.

    It is one of the values. Selecting it is ten times as fast as `np.quantile`.
    """
    at = round(share * (len(values) - 1))
    return np.asarray(np.partition(values, at, axis=0)[at], np.float64)


def colour_point(
    background: NDArray[np.float64],
    density: NDArray[np.float64],
    darkest: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return where the colours of a field lie, (8,) float64.

    Parameters
    ----------
    background
        (3,) RGB outside of cells, 8-bit.
    density
        (N, 3) optical density of cells above it.
    darkest
        (3,) RGB, first percentile of the field: nuclei, where there are any.
    """
    base = np.maximum(background, 1.0)
    pale = density[density[:, 1] <= np.percentile(density[:, 1], 60)]
    cell = np.median(pale, axis=0)
    dark = -np.log10(np.maximum(darkest, 1.0) / base)
    green, deep = max(float(cell[1]), 0.02), max(float(dark[1]), 0.05)
    red_over_blue = np.log10(base[0] / base[2])
    return np.array(
        [
            red_over_blue,
            np.log10(base[1] / base[2]),
            (cell[0] - cell[2]) / green,
            (cell[0] + cell[2]) / (2 * green),
            (dark[0] - dark[2]) / deep,
            (dark[0] + dark[2]) / (2 * deep),
            dark[1],
            red_over_blue - cell[0] + cell[2],
        ]
    )


def with_red_and_blue_exchanged(point: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what `colour_point` gives of the same field in the other order, (8,)."""
    ratio, green, cell, both, dark, deep, depth, pale = point.tolist()
    return np.array([-ratio, green - ratio, -cell, both, -dark, deep, depth, -pale])


def judge_field(
    figures: FieldFigures,
    counts: Counts,
    quality: Quality,
    known: KnownColours | None = None,
) -> list[FieldDoubt]:
    """Say what speaks against a picture; the first that rejects it comes first.

    Parameters
    ----------
    figures
        What was measured.
    counts
        (h, w, 3) sensor counts of the reduced frame.
    quality
        Of the same frame.
    known
        Colours of known laboratories; None leaves the order of colours unchecked.
    """
    bits = _unused_bits(counts)
    refused = _refused(figures, quality) if bits is None else bits
    if refused is not None:
        return [refused]
    found = [
        _dim(quality),
        _soft(quality),
        _without_background(figures),
        _hardly_a_cell(figures, quality),
        None if known is None else _exchanged(figures, known),
    ]
    return [doubt for doubt in found if doubt is not None]


def _refused(figures: FieldFigures, quality: Quality) -> FieldDoubt | None:
    """Return why the cells of a picture must not be named at all."""
    brightness = quality.brightness
    if brightness is not None and brightness < MIN_BRIGHTNESS:
        text = f"brightness {brightness:.3f}, expected at least {MIN_BRIGHTNESS}"
        return FieldDoubt(f"dark: {text}; give more light", "dark")
    if _is_empty(figures, quality):
        return None
    beyond = _no_smear(figures, is_blurred=quality.focus < MIN_FOCUS)
    if not beyond:
        return None
    remedy = "show a stained smear; the models know nothing else"
    return FieldDoubt(f"no smear: {', '.join(beyond)}; {remedy}", "no smear")


def _is_empty(figures: FieldFigures, quality: Quality) -> bool:
    """Whether nothing is on the picture, not even something else than cells."""
    return figures.cells < _MIN_CELLS and (quality.texture or 0.0) <= _MAX_TEXTURE


def _dim(quality: Quality) -> FieldDoubt | None:
    """Doubt a picture with half the light; a calibrated one has the light it had."""
    is_calibrated = quality.background_delta_e is not None
    brightness = 1.0 if quality.brightness is None else quality.brightness
    if is_calibrated or brightness >= _MIN_BRIGHTNESS:
        return None
    return FieldDoubt(
        f"dim: brightness {brightness:.2f}, fields of known laboratories have at least "
        f"{_MIN_BRIGHTNESS}; give more light"
    )


def _soft(quality: Quality) -> FieldDoubt | None:
    """Doubt a picture that is less sharp than any of a known laboratory."""
    if not MIN_FOCUS <= quality.focus < _MIN_SHARP:
        return None
    return FieldDoubt(
        f"soft: focus {quality.focus:.3f}, fields of known laboratories have at least "
        f"{_MIN_SHARP}; turn the fine focus"
    )


def _without_background(figures: FieldFigures) -> FieldDoubt | None:
    """Doubt a few cells that cover the whole picture: negatives look so."""
    if figures.uneven is not None or not _MIN_CELLS <= figures.cells <= _FEW_CELLS:
        return None
    return FieldDoubt(
        f"no background: {figures.cells} cells cover the picture, expected more than "
        f"{_FEW_CELLS} where none of it is seen; look whether this is a stained smear, "
        "not a negative, at the right pixel size"
    )


def _hardly_a_cell(figures: FieldFigures, quality: Quality) -> FieldDoubt | None:
    if figures.cells >= _MIN_CELLS or _is_empty(figures, quality):
        return None
    return FieldDoubt(
        f"hardly a cell: {figures.cells} found at texture {quality.texture:.3f}, "
        f"expected at least {_MIN_CELLS} above {_MAX_TEXTURE}; look whether this is a "
        "stained smear, in focus, at the right pixel size"
    )


def _exchanged(figures: FieldFigures, known: KnownColours) -> FieldDoubt | None:
    """Doubt colours that only fit known laboratories in the other order."""
    if figures.colours is None:
        return None
    here = known.distance(figures.colours)
    there = known.distance(with_red_and_blue_exchanged(figures.colours))
    if there >= _KNOWN or here <= _TIMES_FARTHER * there:
        return None
    return FieldDoubt(
        f"red and blue seem exchanged: the colours are {here:.2f} from those of known "
        f"laboratories, exchanged {there:.2f}; give RGB, not BGR"
    )


def _no_smear(figures: FieldFigures, *, is_blurred: bool) -> list[str]:
    """Return the figures that no smear has, each with its limit.

    A smear that is out of focus has the colours of one, but not its shapes.
    """
    colours: Limits = (
        ("colour", figures.colour, "least", _MIN_COLOUR),
        ("colour", figures.colour, "most", _MAX_COLOUR),
        ("tint of the background", figures.tint, "most", _MAX_TINT),
    )
    shapes: Limits = (
        ()
        if is_blurred
        else (
            ("uneven background", figures.uneven, "most", _MAX_UNEVEN),
            ("cells darker than the background", figures.darker, "least", _MIN_DARKER),
            ("cells in the colours of a stain", figures.stained, "least", _MIN_STAINED),
            ("likeness of cells", figures.likeness, "least", _MIN_LIKENESS),
        )
    )
    return [
        f"{name} {value:.2f}, expected at {side} {limit}"
        for name, value, side, limit in (*colours, *shapes)
        if value is not None and (value < limit if side == "least" else value > limit)
    ]


def _unused_bits(counts: Counts) -> FieldDoubt | None:
    """Return the doubt that counts of fewer bits came in 16-bit numbers."""
    if counts.dtype != np.uint16:
        return None
    largest = int(counts.max(initial=0))
    bits = max(largest.bit_length(), 8)
    if bits > 14:
        return None
    return FieldDoubt(
        f"dark: the largest count is {largest} of 65535, so {16 - bits} of 16 bits are "
        f"not used; say bits = {bits} of [source], or spread the counts over 16 bits",
        "dark",
    )


def _densities(
    field: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    background: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the optical density (N, 3) of cells in boxes (N, 4) above the background.

    The median of nine places in the middle half of each box.
    """
    at = np.array([-0.25, 0.0, 0.25])
    middle, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    x = middle[:, :1] + size[:, :1] * np.tile(at, 3)
    y = middle[:, 1:] + size[:, 1:] * np.repeat(at, 3)
    height, width = field.shape[:2]
    rows = np.clip(y.astype(int), 0, height - 1)
    columns = np.clip(x.astype(int), 0, width - 1)
    colours = np.median(field[rows, columns].astype(np.float64), axis=1)
    return np.asarray(
        -np.log10(np.maximum(colours, 1.0) / np.maximum(background, 1.0)), np.float64
    )
