"""How far one thumbnail of the slide is shifted against another.

Method: normalised cross-correlation at every shift, computed through the Fourier
transform (Lewis, "Fast normalized cross-correlation", Vision Interface 1995; Padfield,
"Masked object registration in the Fourier domain", IEEE Trans. Image Process. 21,
2012).

Phase correlation would find the peak at the same cost, but the height of its peak has
no scale. A normalised correlation is the share of contrast that both pictures have in
common: it can be compared with a limit, so that a wrong shift is refused. The shift may
be longer than half a picture, because the transforms are padded: nothing wraps around.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.stages.thumbnail import Thumbnail

MIN_OVERLAP = 0.1  # share of a picture; a smaller overlap proves nothing
_MIN_CORRELATION = 0.4
# Standard deviations of chance. Two different places of a smear reach at most 5.4 at
# their best shift, so the limit lies above that.
_MIN_SIGNIFICANCE = 6.5
# As shares of the longest side. A grain is the smallest independent structure of a
# smear, about half a cell. What changes more slowly than the high-pass window is the
# lamp and the lens, not the slide.
_GRAIN_SHARE = 1 / 30
_HIGH_PASS_SHARE = 1 / 6


@dataclass(frozen=True, slots=True)
class Shift:
    """Where the second picture lies on the first, in pixels of both.

    A cell at (x, y) on the second is at (x + `x_px`, y + `y_px`) on the first.
    `correlation` of the common part: 1 is equal, 0 is unrelated. `overlap` is the share
    of a picture that both show.
    """

    x_px: float
    y_px: float
    correlation: float
    overlap: float


@dataclass(frozen=True, slots=True, eq=False)
class PreparedThumbnail:
    """What registration computes once per thumbnail.

    `size` (h, w) of the thumbnail. `spectrum` float32, the transform of its
    high-passed, zero-padded pixels, in OpenCV's packed format for real input. `energy`
    (h + 1, w + 1) float32, the summed-area table of the squared pixels: entry [r, c] is
    the sum over rows before r and columns before c.
    """

    size: tuple[int, int]
    spectrum: NDArray[np.float32]
    energy: NDArray[np.float32]


def prepare_thumbnail(thumbnail: Thumbnail) -> PreparedThumbnail:
    """Remove slow changes of brightness, and transform.

    Do this once for a thumbnail that is registered several times.

    Parameters
    ----------
    thumbnail
        (h, w) uint8, grey.
    """
    height, width = thumbnail.shape
    detail = thumbnail.astype(np.float32)
    side = 2 * (round(max(thumbnail.shape) * _HIGH_PASS_SHARE) // 2) + 1
    # The local mean is subtracted here, once. The mean of any large overlap is then
    # about zero, so the correlation needs no mean per shift, as Lewis's formula does.
    detail -= cv2.blur(detail, (side, side), borderType=cv2.BORDER_REFLECT)
    padded = np.zeros(_transform_size(thumbnail.shape), np.float32)
    padded[:height, :width] = detail
    spectrum = cv2.dft(padded)
    energy = np.zeros((height + 1, width + 1), np.float32)
    energy[1:, 1:] = np.square(detail).cumsum(axis=0).cumsum(axis=1)
    return PreparedThumbnail((height, width), spectrum, energy)


def register(
    first: PreparedThumbnail,
    second: PreparedThumbnail,
    min_overlap: float = MIN_OVERLAP,
) -> Shift | None:
    """Find where `second` lies on `first`; None where that is not certain.

    Refused are pictures of another size, an overlap below `min_overlap`, a weak
    correlation, and one that different places would reach by chance.
    """
    if first.size != second.size:
        return None
    correlation, overlap = correlations(first, second)
    allowed = np.where(overlap >= min_overlap, correlation, -1.0)
    row, column = np.unravel_index(int(allowed.argmax()), allowed.shape)
    peak, shared = float(allowed[row, column]), float(overlap[row, column])
    # The correlation of n independent values that have nothing in common has the
    # standard deviation 1 / sqrt(n). Here n is the number of grains in the overlap.
    significance_of_peak = peak * np.sqrt(shared * _grains(first.size))
    if peak < _MIN_CORRELATION or significance_of_peak < _MIN_SIGNIFICANCE:
        return None
    # A higher neighbour has too little overlap. Then this is only the slope towards a
    # peak outside the allowed shifts, and no peak itself.
    rows = slice(max(0, row - 1), row + 2)
    columns = slice(max(0, column - 1), column + 2)
    if correlation[rows, columns].max() > peak:
        return None
    height, width = first.size
    y = row - (height - 1) + _subpixel_offset(allowed[:, column], int(row))
    x = column - (width - 1) + _subpixel_offset(allowed[row], int(column))
    return Shift(float(x), float(y), peak, shared)


def significance(first: PreparedThumbnail, second: PreparedThumbnail) -> float:
    """Return by how many standard deviations of chance the best shift stands out.

    Pictures of another size have nothing in common: 0.
    """
    if first.size != second.size:
        return 0.0
    correlation, overlap = correlations(first, second)
    weighted = correlation * np.sqrt(overlap * _grains(first.size))
    return float(np.where(overlap >= MIN_OVERLAP, weighted, 0.0).max())


def _grains(size: tuple[int, int]) -> float:
    """Return how many independent grains a picture (h, w) of a smear holds."""
    grain_px = max(1.0, max(size) * _GRAIN_SHARE)
    return size[0] * size[1] / grain_px**2


def correlations(
    first: PreparedThumbnail, second: PreparedThumbnail
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Correlate two pictures of one size (h, w) at every shift.

    Returns
    -------
    tuple
        Two float32 arrays (2h - 1, 2w - 1). Row h - 1 and column w - 1 are the shift
        zero. The first is the correlation, -1 to 1; the second the share of a picture
        that both show.

    Notes
    -----
    For a shift s, with both sums over the overlap of the pictures a and b at s:
    c(s) = sum(a * b) / sqrt(sum(a * a) * sum(b * b)).
    """
    height, width = first.size
    # The numerator of all shifts at once: the inverse transform of A * conj(B). The
    # padding puts negative shifts at the far end; rolling brings them to the front.
    product = cv2.mulSpectrums(first.spectrum, second.spectrum, 0, conjB=True)
    numerator = cv2.dft(product, flags=cv2.DFT_INVERSE | cv2.DFT_SCALE)
    down, right = height - 1, width - 1
    numerator = np.roll(numerator, (down, right), axis=(0, 1))[
        : 2 * height - 1, : 2 * width - 1
    ]
    # The denominator needs no transform: four reads of a summed-area table per shift.
    rows, columns = np.arange(-down, height), np.arange(-right, width)
    energy = _overlap_energy(first.energy, rows, columns)
    energy *= _overlap_energy(second.energy, -rows, -columns)
    # Damps overlaps that hold almost no contrast, such as empty glass: without this
    # term noise divided by nearly zero could become the highest peak.
    energy += 1e-6 * first.energy[-1, -1] * second.energy[-1, -1] + 1e-3
    overlap = np.outer(1 - np.abs(rows) / height, 1 - np.abs(columns) / width)
    return numerator / np.sqrt(energy), overlap.astype(np.float32)


def _overlap_energy(
    energy: NDArray[np.float32], rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Sum the squares of the part of a picture that the other one covers.

    `energy` (h + 1, w + 1) is the summed-area table, `rows` (R,) and `columns` (C,) the
    shifts of the other picture. Returns (R, C) float32.
    """
    height, width = energy.shape[0] - 1, energy.shape[1] - 1
    top, bottom = np.maximum(rows, 0), height + np.minimum(rows, 0)
    left, right = np.maximum(columns, 0), width + np.minimum(columns, 0)
    down = energy[bottom] - energy[top]
    return np.asarray(down[:, right] - down[:, left])


def _subpixel_offset(values: NDArray[np.float32], peak_index: int) -> float:
    """Return how far the top lies from the highest of `values` (N,), -0.5 to 0.5 px.

    The top is that of a parabola through the peak and its two neighbours:
    (before - after) / (2 * (before - 2 * peak + after)).
    """
    if not 0 < peak_index < len(values) - 1:
        return 0.0
    before, peak, after = (float(v) for v in values[peak_index - 1 : peak_index + 2])
    curvature = before - 2 * peak + after
    if curvature >= 0:
        return 0.0
    return float(np.clip((before - after) / (2 * curvature), -0.5, 0.5))


def _transform_size(size: tuple[int, ...]) -> tuple[int, int]:
    """Return rows and columns in which no shift wraps around, fast to transform."""
    return (
        cv2.getOptimalDFTSize(2 * size[0] - 1),
        cv2.getOptimalDFTSize(2 * size[1] - 1),
    )
