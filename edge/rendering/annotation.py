"""Draw what was said of a frame onto that very frame."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.frames import Counts
from edge.schema.results import Cell, FrameResult
from edge.taxonomy import UNIDENTIFIED

# Okabe and Ito's colours: told apart also by colour-blind eyes.
_COLOURS = {
    "RBC": (213, 94, 0),
    "WBC": (0, 114, 178),
    "Platelet": (0, 158, 115),
    "Plasma": (150, 150, 150),
}
_LONGEST_PX = 16_000  # JPEG ends at 65,500
_OTHER, _UNSURE = (204, 121, 167), (240, 190, 0)


def draw(
    pixels: Counts, result: FrameResult, width_px: int | None = None
) -> NDArray[np.uint8]:
    """Return a picture with a box and a name for every cell.

    Parameters
    ----------
    pixels
        (H, W, 3) uint8 or uint16 RGB counts, as the camera gave them.
    result
        What was said of this frame.
    width_px
        Width of the picture, less where it would be endless; None is the frame's.

    Returns
    -------
    NDArray[np.uint8]
        (h, w, 3) RGB.
    """
    if pixels.dtype == np.uint16:
        pixels = cv2.convertScaleAbs(pixels, alpha=255 / 65535)
    scale = 1.0 if width_px is None else width_px / pixels.shape[1]
    scale = min(scale, _LONGEST_PX / max(pixels.shape[:2]))
    if scale != 1.0:
        size = [max(1, round(side * scale)) for side in pixels.shape[1::-1]]
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    picture = np.array(pixels, np.uint8)
    line = max(1, round(picture.shape[1] / 800))
    for cell in result.cells:
        _draw_cell(picture, cell, scale, line)
    return picture


def _draw_cell(picture: NDArray[np.uint8], cell: Cell, scale: float, line: int) -> None:
    colour = _UNSURE if cell.abstained else _COLOURS.get(cell.label, _OTHER)
    x0, y0, x1, y1 = (round(v * scale) for v in cell.box)
    cv2.rectangle(picture, (x0, y0), (x1, y1), colour, line)
    if cell.label == "RBC":  # the many are told by their colour
        return
    name = "?" if cell.abstained else cell.label
    _tag(picture, f"{name} {cell.confidence:.2f}", (x0, y0), colour, line)


def _tag(
    picture: NDArray[np.uint8],
    text: str,
    corner: tuple[int, int],
    colour: tuple[int, int, int],
    line: int,
) -> None:
    """Write white on the colour of the box, above its corner or inside the frame."""
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.30 + 0.12 * line
    (width, height), below = cv2.getTextSize(text, font, size, 1)
    x = min(max(corner[0], 0), max(picture.shape[1] - width - 4, 0))
    y = max(corner[1], height + below + 2)
    top_left = (x, y - height - below - 2)
    cv2.rectangle(picture, top_left, (x + width + 4, y), colour, cv2.FILLED)
    place = (x + 2, y - below)
    cv2.putText(picture, text, place, font, size, (255, 255, 255), 1, cv2.LINE_AA)


def legend() -> list[tuple[str, str]]:
    """Class names and their colours as #rrggbb, for pages and tables."""
    colours = {**_COLOURS, UNIDENTIFIED: _UNSURE}
    return [(name, f"#{bytes(colour).hex()}") for name, colour in colours.items()]


def to_jpeg(picture: NDArray[np.uint8], most_bytes: int | None = None) -> bytes:
    """Encode an RGB picture, the coarser the less room there is."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    for quality in (80, 60, 40, 20):
        _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if most_bytes is None or data.size <= most_bytes:
            break
    return data.tobytes()
