"""Small plots for pages. The device has OpenCV, but no plotting library."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]
RED, GREEN, BLUE = (190, 60, 60), (40, 130, 70), (60, 90, 190)
INK, PAPER, RULE = (70, 78, 90), (255, 255, 255), (226, 226, 226)
PAGE_PX = 960
_MARGIN = 44  # pixels at the left and below, for numbers
_MAX_TICKS = 7


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers in a range, 1, 2 or 5 times a power of ten apart.

    At most seven.
    """
    min_step = (high - low) / _MAX_TICKS
    power = 10.0 ** np.floor(np.log10(min_step))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= min_step)
    first, last = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
    return [float(n * step) for n in range(int(first), int(last) + 1)]


class Axes:
    """A plot; `across` and `up` are the ranges of its horizontal and vertical axis.

    `image` is (H, W, 3), uint8, RGB.
    """

    def __init__(
        self,
        across: tuple[float, float],
        up: tuple[float, float],
        size_px: tuple[int, int] = (PAGE_PX, 360),
        labels: tuple[str, str] = ("", ""),
    ) -> None:
        self._across, self._up = across, up
        self._width, self._height = size_px
        self.image: Image = np.full((self._height, self._width, 3), PAPER, np.uint8)
        for value in ticks(*across):
            x = self._pixel(value, up[0])[0]
            cv2.line(self.image, (x, 8), (x, self._height - _MARGIN), RULE, 1)
            self._write(f"{value:.3g}", (x - 12, self._height - _MARGIN + 16))
        for value in ticks(*up):
            y = self._pixel(across[0], value)[1]
            cv2.line(self.image, (_MARGIN, y), (self._width - 8, y), RULE, 1)
            self._write(f"{value:.3g}", (4, y + 4))
        self._write(labels[0], (self._width // 2 - 60, self._height - 8))
        self._write(labels[1], (_MARGIN + 6, 20))

    def line(
        self, x: Sequence[float], y: Sequence[float], colour: Colour, width: int = 2
    ) -> None:
        """Draw a line through points."""
        points = np.array(
            [self._pixel(a, b) for a, b in zip(x, y, strict=True)], np.int32
        )
        cv2.polylines(self.image, [points], False, colour, width, cv2.LINE_AA)

    def dots(
        self, x: Sequence[float], y: Sequence[float], colour: Colour, radius: int = 2
    ) -> None:
        """Draw points."""
        for a, b in zip(x, y, strict=True):
            cv2.circle(self.image, self._pixel(a, b), radius, colour, -1, cv2.LINE_AA)

    def cross(self, x: float, y: float, colour: Colour, name: str) -> None:
        """Draw a cross at a point, with a name beside it."""
        point = self._pixel(x, y)
        cv2.drawMarker(self.image, point, colour, cv2.MARKER_CROSS, 18, 2, cv2.LINE_AA)
        self._write(name, (point[0] + 10, point[1] - 6), colour)

    def _pixel(self, x: float, y: float) -> tuple[int, int]:
        """Return column and row of a point; those outside are just beyond the edge."""
        across = (x - self._across[0]) / (self._across[1] - self._across[0])
        up = (y - self._up[0]) / (self._up[1] - self._up[0])
        wide, high = self._width - _MARGIN - 8, self._height - _MARGIN - 8
        across, up = (min(max(float(v), -0.1), 1.1) for v in (across, up))
        return round(_MARGIN + across * wide), round(8 + (1 - up) * high)

    def _write(self, text: str, at: tuple[int, int], colour: Colour = INK) -> None:
        cv2.putText(
            self.image,
            text,
            at,
            cv2.FONT_HERSHEY_SIMPLEX,
            0.42,
            colour,
            1,
            cv2.LINE_AA,
        )


def side_by_side(before: Image, after: Image) -> Image:
    """Join two images (H, W, 3), uint8, RGB, each to half the width of the page."""
    return np.hstack([resized(before, PAGE_PX // 2), resized(after, PAGE_PX // 2)])


def resized(image: Image, width_px: int) -> Image:
    """Resize (H, W, 3), uint8, RGB, to a width; the height follows."""
    height = round(image.shape[0] * width_px / image.shape[1])
    shrinks = image.shape[1] > width_px
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(
        cv2.resize(image, (width_px, height), interpolation=interpolation), np.uint8
    )


def png(image: Image) -> bytes:
    """Encode (H, W, 3), uint8, RGB."""
    is_encoded, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not is_encoded:
        raise ValueError(f"an image of shape {image.shape} cannot be written as PNG")
    return data.tobytes()
