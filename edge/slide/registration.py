"""How far one picture of the slide lies from another: normalised correlation.

At every shift that leaves enough overlap, Pearson's correlation of what both pictures
show there is computed through the Fourier transform (Lewis, "Fast normalized
cross-correlation", 1995; Padfield, "Masked object registration in the Fourier domain",
2012). Phase correlation would find the peak at the same price, but its height says
little: this one is a share of explained contrast and can be trusted or refused, and a
shift of more than half a picture needs no guessing of signs.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.stages.thumbnail import Thumbnail

LEAST_OVERLAP = 0.1  # share of a picture; less of it proves nothing
_LEAST_CORRELATION = 0.4
_LEAST_SIGNIFICANCE = 6.5  # standard deviations; the best chance of unlike places: 5.4
_GRAIN_SHARE = 1 / 30  # of the longest side; the grain of a smear, about half a cell
_EVENED_SHARE = 1 / 6  # of the longest side; slower changes are lamp and lens


@dataclass(frozen=True, slots=True)
class Shift:
    """Where the second picture lies on the first, in pixels of both.

    A thing at (x, y) on the second is at (x + `x_px`, y + `y_px`) on the first.
    `correlation` of what both show, 1 is equal; `overlap` is the share of a picture
    that both show.
    """

    x_px: float
    y_px: float
    correlation: float
    overlap: float


@dataclass(frozen=True, slots=True, eq=False)
class PreparedThumbnail:
    """A view made ready: evened, its transform, and its energy left of and above.

    `spectrum` is packed as OpenCV packs that of real numbers; `energy` (h + 1, w + 1)
    is the summed square of the rows and columns before.
    """

    size: tuple[int, int]
    spectrum: NDArray[np.float32]
    energy: NDArray[np.float32]


def prepare_thumbnail(thumbnail: Thumbnail) -> PreparedThumbnail:
    """Even a view out and transform it; do so once for a view that is met often."""
    height, width = thumbnail.shape
    evened = thumbnail.astype(np.float32)
    side = 2 * (round(max(thumbnail.shape) * _EVENED_SHARE) // 2) + 1
    evened -= cv2.blur(evened, (side, side), borderType=cv2.BORDER_REFLECT)
    padded = np.zeros(_padded(thumbnail.shape), np.float32)
    padded[:height, :width] = evened
    spectrum = cv2.dft(padded)
    energy = np.zeros((height + 1, width + 1), np.float32)
    energy[1:, 1:] = np.square(evened).cumsum(axis=0).cumsum(axis=1)
    return PreparedThumbnail((height, width), spectrum, energy)


def register(
    first: PreparedThumbnail,
    second: PreparedThumbnail,
    least_overlap: float = LEAST_OVERLAP,
) -> Shift | None:
    """Find where `second` lies on `first`; None where that is not certain.

    Refused are pictures of another size, an overlap below `least_overlap`, and a
    correlation that is weak or that unlike places would reach by chance: with n
    independent grains in the overlap, chance is spread by 1 / sqrt(n).
    """
    if first.size != second.size:
        return None
    correlation, overlap = correlations(first, second)
    allowed = np.where(overlap >= least_overlap, correlation, -1.0)
    row, column = np.unravel_index(int(allowed.argmax()), allowed.shape)
    height, width = first.size
    best, shared = float(allowed[row, column]), float(overlap[row, column])
    deviations = best * np.sqrt(shared * _grains(first.size))
    if best < _LEAST_CORRELATION or deviations < _LEAST_SIGNIFICANCE:
        return None
    if (
        correlation[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].max()
        > best
    ):
        return None  # the slope of a peak that lies where too little overlaps
    y = row - (height - 1) + _vertex(allowed[:, column], int(row))
    x = column - (width - 1) + _vertex(allowed[row], int(column))
    return Shift(float(x), float(y), best, shared)


def significance(first: PreparedThumbnail, second: PreparedThumbnail) -> float:
    """Return how many standard deviations of chance the best shift is away from none.

    Pictures of another size have nothing in common: 0.
    """
    if first.size != second.size:
        return 0.0
    correlation, overlap = correlations(first, second)
    weighed = correlation * np.sqrt(overlap * _grains(first.size))
    return float(np.where(overlap >= LEAST_OVERLAP, weighed, 0.0).max())


def _grains(size: tuple[int, int]) -> float:
    """Return how many independent grains a picture (h, w) of a smear holds."""
    grain_px = max(1.0, max(size) * _GRAIN_SHARE)
    return size[0] * size[1] / grain_px**2


def correlations(
    first: PreparedThumbnail, second: PreparedThumbnail
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Correlate at every shift.

    Returns
    -------
    tuple
        Two arrays (2h - 1, 2w - 1), in which row h - 1 and column w - 1 are no shift:
        the correlation, and the share of a picture that both show.
    """
    height, width = first.size
    product = cv2.mulSpectrums(first.spectrum, second.spectrum, 0, conjB=True)
    shared = cv2.dft(product, flags=cv2.DFT_INVERSE | cv2.DFT_SCALE)
    down, right = height - 1, width - 1  # negative shifts lie at the far end
    shared = np.roll(shared, (down, right), axis=(0, 1))[
        : 2 * height - 1, : 2 * width - 1
    ]
    rows, columns = np.arange(-down, height), np.arange(-right, width)
    energy = _overlapping(first.energy, rows, columns)
    energy *= _overlapping(second.energy, -rows, -columns)
    energy += 1e-6 * first.energy[-1, -1] * second.energy[-1, -1] + 1e-3
    overlap = np.outer(1 - np.abs(rows) / height, 1 - np.abs(columns) / width)
    return shared / np.sqrt(energy), overlap.astype(np.float32)


def _overlapping(
    energy: NDArray[np.float32], rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Energy of the part of a picture that the other one, shifted so, covers."""
    height, width = energy.shape[0] - 1, energy.shape[1] - 1
    top, bottom = np.maximum(rows, 0), height + np.minimum(rows, 0)
    left, right = np.maximum(columns, 0), width + np.minimum(columns, 0)
    down = energy[bottom] - energy[top]
    return np.asarray(down[:, right] - down[:, left])


def _vertex(values: NDArray[np.float32], at: int) -> float:
    """Place of a parabola's top through a peak and its neighbours, within half a px."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, peak, after = (float(v) for v in values[at - 1 : at + 2])
    curve = before - 2 * peak + after
    return (
        0.0 if curve >= 0 else float(np.clip((before - after) / (2 * curve), -0.5, 0.5))
    )


def _padded(size: tuple[int, ...]) -> tuple[int, int]:
    """Room in which no shift wraps around, of a size that transforms fast."""
    return (
        cv2.getOptimalDFTSize(2 * size[0] - 1),
        cv2.getOptimalDFTSize(2 * size[1] - 1),
    )
