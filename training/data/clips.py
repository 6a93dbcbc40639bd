"""Clips: one cell from frame to frame, as a sequence model reads them.

A clip on disk is a strip: an image whose frames, all of equal width, lie side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.stages.crops import cut_crops, windows
from training.data.rows import DataInvalid, Row, developed

ENDED = -1  # class of a frame after the end of its clip
_COLOURS = (  # of Okabe and Ito: colour-blind people can tell them apart
    (153, 153, 153),
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (240, 228, 66),
    (204, 121, 167),
    (86, 180, 233),
    (0, 0, 0),
)
_BAR_PX, _GAP_PX, _LEGEND_PX, _NAME_PX = 5, 2, 22, 130


@dataclass(frozen=True, slots=True, eq=False)
class Clips:
    """Clips of the same number of frames, one row of the data each.

    `pixels` (N, T, S, S, 3) uint8 RGB. `classes` (N, T) int64: the class of each frame,
    `ENDED` where the clip is over and its last frame is repeated.
    """

    pixels: NDArray[np.uint8]
    classes: NDArray[np.int64]
    rows: tuple[Row, ...]

    def pick(self, kept: Sequence[int] | NDArray[np.integer]) -> Clips:
        """Return the clips with these indices."""
        indices = np.asarray(kept, int)
        rows = tuple(self.rows[i] for i in indices)
        return Clips(self.pixels[indices], self.classes[indices], rows)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Frames (N,) int64 before each clip is over."""
        return np.asarray((self.classes != ENDED).sum(axis=1), np.int64)


def read_clips(rows: Iterable[tuple[Row, int]], size_px: int, frames: int) -> Clips:
    """Read strips with the device's own code; a clip's class is that of all its frames.

    Parameters
    ----------
    rows
        Each strip with the index of its class; `Row.frames` of 1 is a single image.
    size_px
        Side of each frame that comes out.
    frames
        How many come out: a longer clip is cut, a shorter one repeats its last frame.

    Returns
    -------
    Clips
        In the order of `rows`.

    Raises
    ------
    DataInvalid
        A file cannot be read, or its width does not hold its number of frames.
    """
    strips = list(rows)
    pixels = np.empty((len(strips), frames, size_px, size_px, 3), np.uint8)
    classes = np.full((len(strips), frames), ENDED, np.int64)
    for number, (row, index) in enumerate(strips):
        read = _frames(row)[:frames]
        height, width = read.shape[1:3]
        window = windows(np.array([[0, 0, width, height]], np.float32), 1.0)
        for t, frame in enumerate(read):
            pixels[number, t] = cut_crops(frame, window, size_px)[0]
        pixels[number, len(read) :] = pixels[number, len(read) - 1]
        classes[number, : len(read)] = index
    return Clips(pixels, classes, tuple(row for row, _ in strips))


def _frames(row: Row) -> NDArray[np.uint8]:
    """Divide the strip of a row into its frames: (n, H, W, 3) uint8 RGB.

    Raises
    ------
    DataInvalid
        Its width is not a multiple of the number of frames.
    """
    strip = developed(row)
    height, width = strip.shape[:2]
    if row.frames < 1 or width % row.frames:
        raise DataInvalid(
            f"{row.where}: {row.path.name} is {width} px wide with n_frames "
            f"{row.frames}; expected frames of equal width side by side, so correct "
            "n_frames or leave the row out"
        )
    return np.asarray(strip.reshape(height, row.frames, -1, 3).swapaxes(0, 1))


def film_strip(clips: Clips, every: int, names: tuple[str, ...]) -> NDArray[np.uint8]:
    """Draw clips for people: one per row, a bar under each frame in its class's colour.

    Parameters
    ----------
    clips
        What to draw; frames after the end of a clip are left blank.
    every
        Draw each `every`-th frame.
    names
        The classes in order, for the legend above; at most eight.

    Returns
    -------
    NDArray[np.uint8]
        (H, W, 3) RGB.
    """
    rows = [_legend(names)]
    for pixels, classes in zip(clips.pixels, clips.classes, strict=True):
        frames = zip(pixels[::every], classes[::every].tolist(), strict=True)
        rows.append(np.hstack([_with_bar(frame, k) for frame, k in frames]))
    width = max(row.shape[1] for row in rows)
    padded = [
        np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255)
        for row in rows
    ]
    return np.vstack(padded)


def _legend(names: tuple[str, ...]) -> NDArray[np.uint8]:
    """Draw the name of each class beside its colour: (h, w, 3)."""
    legend = np.full((_LEGEND_PX, _NAME_PX * len(names), 3), 255, np.uint8)
    for column, (name, colour) in enumerate(zip(names, _COLOURS, strict=False)):
        x = column * _NAME_PX + 4
        legend[6:16, x : x + 10] = colour
        at, font = (x + 15, 15), cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(legend, name, at, font, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return legend


def _with_bar(frame: NDArray[np.uint8], class_index: int) -> NDArray[np.uint8]:
    """Draw a frame (S, S, 3) with a bar in the colour of its class; blank if ended."""
    size = len(frame)
    framed = np.full((size + _BAR_PX + 2 * _GAP_PX, size + _GAP_PX, 3), 255, np.uint8)
    if class_index != ENDED:
        framed[:size, :size] = frame
        framed[size + 1 : size + 1 + _BAR_PX, :size] = _COLOURS[class_index]
    return framed
