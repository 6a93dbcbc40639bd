"""Small pictures of each followed cell over time, so that an event can be looked at.

Of every cell some pictures are kept that are spread evenly over its history, and its
latest ones. When the spread ones are full, every other one is dropped, and from then on
half as many are added: so they stay even, in bounded memory, however long it lasts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import cv2
import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from edge.rendering.annotation import to_jpeg
from edge.schema.results import Filmstrip

SIDE_PX = 32
MAX_SPREAD, MAX_LATEST = 8, 4  # 37 kB per cell
_MAX_BYTES = 12_000  # of a JPEG

Picture = NDArray[np.uint8]
_FramePicture = tuple[int, Picture]


@dataclass(slots=True)
class _CellPictures:
    """The pictures of one cell, each with its frame.

    `spread` holds every `stride`-th of the `count` that came, `latest` the last ones.
    """

    spread: list[_FramePicture] = field(default_factory=list)
    latest: deque[_FramePicture] = field(
        default_factory=lambda: deque(maxlen=MAX_LATEST)
    )
    count: int = 0
    stride: int = 1

    def add(self, frame: int, picture: Picture) -> None:
        """Take the picture of one more frame."""
        self.latest.append((frame, picture))
        if self.count % self.stride == 0:
            self.spread.append((frame, picture))
        self.count += 1
        if len(self.spread) > MAX_SPREAD:
            del self.spread[1::2]
            self.stride *= 2


class Filmstrips:
    """The pictures of all followed cells. Used from one thread."""

    def __init__(self) -> None:
        self._by_track: dict[int, _CellPictures] = {}

    def add_frame(self, frame: int, tracks: NDArray[np.int64], crops: Picture) -> None:
        """Take the pictures of the cells of a frame.

        Parameters
        ----------
        frame
            The driver's number.
        tracks
            (N,) int64 numbers of the cells.
        crops
            (N, S, S, 3) uint8 RGB, colour-corrected.
        """
        for track, crop in zip(tracks.tolist(), crops, strict=True):
            self._by_track.setdefault(track, _CellPictures()).add(frame, _small(crop))

    def filmstrip(self, track: int) -> Filmstrip | UnsetType:
        """Return the pictures of a cell, oldest first; UNSET where there are none."""
        pictures = self._by_track.get(track)
        if pictures is None:
            return UNSET
        by_frame = dict(
            sorted([*pictures.spread, *pictures.latest], key=lambda item: item[0])
        )
        jpeg = to_jpeg(np.hstack([*by_frame.values()]), _MAX_BYTES)
        return Filmstrip(frames=tuple(by_frame), jpeg=jpeg)

    def forget(self, tracks: Iterable[int]) -> None:
        """Drop the pictures of cells that are no longer followed."""
        for track in tracks:
            self._by_track.pop(track, None)


def _small(crop: Picture) -> Picture:
    """Return a copy (32, 32, 3) of a crop (S, S, 3).

    A copy, because a slice of the crops would keep all of them in memory.
    """
    if crop.shape[0] == SIDE_PX:
        return np.array(crop)
    size = (SIDE_PX, SIDE_PX)
    return np.asarray(cv2.resize(crop, size, interpolation=cv2.INTER_AREA), np.uint8)
