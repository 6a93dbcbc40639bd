"""Draw the result of a frame onto the frame."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.frames import Counts
from edge.rendering.class_colours import ABSTAINED, COLOURS, OTHER
from edge.schema.results import Cell, FrameResult

_MAX_SIDE_PX = 16_000  # libjpeg writes at most 65,500


def draw(
    pixels: Counts, result: FrameResult, width_px: int | None = None
) -> NDArray[np.uint8]:
    """Return a picture with a box and a name for every cell.

    Parameters
    ----------
    pixels
        (H, W, 3) uint8 or uint16 RGB counts, as the camera gave them, or a smaller
        copy of a frame that is too large to be shown.
    result
        What was found in this frame.
    width_px
        Width of the picture; None is the width of the frame. A very high picture is
        drawn smaller, so that it can be a JPEG.

    Returns
    -------
    NDArray[np.uint8]
        (h, w, 3), RGB.
    """
    if pixels.dtype == np.uint16:
        pixels = cv2.convertScaleAbs(pixels, alpha=255 / 65535)
    scale = 1.0 if width_px is None else width_px / pixels.shape[1]
    scale = min(scale, _MAX_SIDE_PX / max(pixels.shape[:2]))
    if scale != 1.0:
        size = [max(1, round(side * scale)) for side in pixels.shape[1::-1]]
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    picture = np.array(pixels, np.uint8)
    line = max(1, round(picture.shape[1] / 800))
    if result.width_px:
        scale = picture.shape[1] / result.width_px
    for cell in result.cells:
        _draw_cell(picture, cell, scale, line)
    return picture


def _draw_cell(picture: NDArray[np.uint8], cell: Cell, scale: float, line: int) -> None:
    """Draw box and name of a cell into `picture` (H, W, 3), uint8, RGB."""
    colour = ABSTAINED if cell.abstained else COLOURS.get(cell.label, OTHER)
    x0, y0, x1, y1 = (round(v * scale) for v in cell.box)
    cv2.rectangle(picture, (x0, y0), (x1, y1), colour, line)
    if cell.label == "RBC":  # there are so many: their colour is enough
        return
    name = "?" if cell.abstained else cell.label
    _write_name(picture, f"{name} {cell.confidence:.2f}", (x0, y0), colour, line)


def _write_name(
    picture: NDArray[np.uint8],
    text: str,
    corner: tuple[int, int],
    colour: tuple[int, int, int],
    line: int,
) -> None:
    """Write a name, white on `colour`, into `picture` (H, W, 3), uint8, RGB.

    It is above the box's corner, or lower where it would leave the picture.
    """
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.30 + 0.12 * line
    (width, height), descent = cv2.getTextSize(text, font, size, 1)
    x = min(max(corner[0], 0), max(picture.shape[1] - width - 4, 0))
    y = max(corner[1], height + descent + 2)
    top_left = (x, y - height - descent - 2)
    cv2.rectangle(picture, top_left, (x + width + 4, y), colour, cv2.FILLED)
    origin = (x + 2, y - descent)
    cv2.putText(picture, text, origin, font, size, (255, 255, 255), 1, cv2.LINE_AA)


def with_caption(picture: NDArray[np.uint8], lines: Sequence[str]) -> NDArray[np.uint8]:
    """Return a picture (H, W, 3), uint8, RGB, with lines of text below it.

    Text that is wider than the picture goes on in the next line. The font has ASCII
    only: other characters are shown as "?".
    """
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.45 * max(1.0, picture.shape[1] / 1600)
    (letter, height), descent = cv2.getTextSize("0" * 100, font, size, 1)
    columns = max(20, int((picture.shape[1] - height) / (letter / 100)))
    wrapped = [part for line in lines for part in textwrap.wrap(line, columns) or [""]]
    step = round(1.6 * (height + descent))
    strip = np.full((step * (len(wrapped) + 1), picture.shape[1], 3), 255, np.uint8)
    for number, line in enumerate(wrapped, 1):
        text = line.encode("ascii", "replace").decode()
        origin = (height // 2, step * number)
        cv2.putText(strip, text, origin, font, size, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([picture, strip])


def to_jpeg(picture: NDArray[np.uint8], max_bytes: int | None = None) -> bytes:
    """Encode a picture (H, W, 3), uint8, RGB.

    The quality is lowered until the JPEG has at most `max_bytes`, or is the lowest.
    """
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    for quality in (80, 60, 40, 20):
        _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if max_bytes is None or data.size <= max_bytes:
            break
    return data.tobytes()
