"""Find what was drawn into a picture, or hides it: scale bars, text, a black surround.

Light that came through a stained smear is never nearly black, never pure white beside a
darker background, and never the same along the whole edge of a frame. Nothing of the
kind was seen on 375 real fields of seven sources (`docs/differential.md`).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.frames import Counts
from edge.stages.field_check import FieldDoubt, quantile

_BLACK = 0.12  # of the background's brightest channel; nuclei let more light through
_WHITE = 250 / 255  # of full scale
_WHITE_BACKGROUND = 235 / 255  # a brighter background may be white itself
_MIN_SHARE = 2e-4  # of the frame: fewer pixels are defects of the sensor
_SURROUND_SHARE = 0.01  # of the frame, in one piece that touches its border
_FRAME_PX = 3  # rows or columns of one colour that make a drawn frame
_FRAME_DEVIATION = 1 / 255  # of full scale, along such a row
_MOST_HIDDEN = 0.6  # of the frame
_MARGIN = 0.004  # of the longer side, around marks: their soft rim


@dataclass(frozen=True, slots=True, eq=False)
class Marks:
    """What hides parts of a frame.

    `mask` (H, W) uint8 is 1 where something is drawn or no light came through; `share`
    is the share of the frame that it covers. `is_surround`: one large piece at the
    border, not lines and letters.
    """

    mask: NDArray[np.uint8]
    share: float
    is_surround: bool

    def doubt(self) -> FieldDoubt:
        """Say what was found; where it hides most of the frame, it is rejected."""
        what = (
            "a dark or plain surround hides part of the frame"
            if self.is_surround
            else "something is drawn into the frame, such as a scale bar or text"
        )
        text = f"{what}: {100 * self.share:.1f} % of it is left out"
        if self.share > _MOST_HIDDEN:
            limit = f"expected at most {100 * _MOST_HIDDEN:.0f} %"
            return FieldDoubt(f"{text}, {limit}; show the field alone", "no smear")
        return FieldDoubt(f"{text}; give the picture as the camera took it")


def find_marks(pixels: Counts) -> Marks | None:
    """Find marks on sensor counts (H, W, 3) uint8 or uint16; None without any."""
    full_scale = np.iinfo(pixels.dtype).max
    # A look at one pixel of nine tells whether the whole is worth one: a bar or a
    # letter is three pixels wide or more.
    size = (-(-pixels.shape[1] // 3), -(-pixels.shape[0] // 3))
    sample = cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST)
    background = quantile(sample[::3, ::3].reshape(-1, 3), 0.9)
    few = _MIN_SHARE * sample[..., 0].size / 2
    if cv2.countNonZero(_hidden(sample, background, full_scale)) < few:
        return None
    hidden = _hidden(pixels, background, full_scale)
    if cv2.countNonZero(hidden) < _MIN_SHARE * hidden.size:
        return None
    reach = 2 * max(1, round(_MARGIN * max(hidden.shape))) + 1
    mask = cv2.dilate((hidden > 0).astype(np.uint8), np.ones((reach, reach), np.uint8))
    return Marks(np.asarray(mask, np.uint8), float(mask.mean()), _is_surround(mask))


def _hidden(
    pixels: Counts, background: NDArray[np.float64], full_scale: int
) -> NDArray[np.uint8]:
    """Return where (H, W, 3) is black, white or of a drawn frame: 0 elsewhere."""
    darkest = float(background.max()) * _BLACK
    hidden = cv2.inRange(pixels, (0.0, 0.0, 0.0), (darkest, darkest, darkest))
    if background.min() < _WHITE_BACKGROUND * full_scale:
        least, most = _WHITE * full_scale, float(full_scale)
        hidden |= cv2.inRange(pixels, (least, least, least), (most, most, most))
    _add_frame(hidden, pixels, full_scale)
    return np.asarray(hidden, np.uint8)


def without_marks(pixels: Counts, marks: Marks) -> Counts:
    """Return (H, W, 3) with the marked pixels in the colour of the background."""
    visible = pixels[::4, ::4][marks.mask[::4, ::4] == 0]
    if not len(visible):
        return pixels
    colour = quantile(visible, 0.75).astype(pixels.dtype)
    return np.where(marks.mask[..., None] > 0, colour, pixels)


def _add_frame(hidden: NDArray[np.uint8], pixels: Counts, full_scale: int) -> None:
    """Mark rows and columns at the border of `pixels` that have one single colour."""
    for turned in range(4):
        picture, marked = np.rot90(pixels, turned), np.rot90(hidden, turned)
        widest, wide = len(picture) // 4, 0
        while wide < widest and _is_plain(picture[wide], full_scale):
            wide += 1
        if _FRAME_PX <= wide < widest:  # more is an empty picture
            marked[:wide] = 255


def _is_plain(row: Counts, full_scale: int) -> bool:
    """Whether a row (W, 3) has one colour that is not a saturated background."""
    if np.ptp(row, axis=0).max() > 8 * _FRAME_DEVIATION * full_scale:
        return False
    is_white = bool(row.min() >= _WHITE * full_scale)
    return not is_white and float(row.std(axis=0).max()) < _FRAME_DEVIATION * full_scale


def _is_surround(mask: NDArray[np.uint8]) -> bool:
    """Whether a large piece of `mask` (H, W) touches the border of the frame."""
    count, _, pieces, _ = cv2.connectedComponentsWithStats(mask)
    height, width = mask.shape
    for x, y, w, h, area in pieces[1:count].tolist():
        at_border = x == 0 or y == 0 or x + w == width or y + h == height
        if at_border and area > _SURROUND_SHARE * mask.size:
            return True
    return False
