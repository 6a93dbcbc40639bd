"""Small pictures of each followed cell over time, so that an event can be looked at.

Of every cell a few are kept, evenly over all that was seen of it, and its last ones:
where a history is full every other picture goes, and from then on half as many come.
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
MOST_EVENLY, MOST_LAST = 8, 4  # 37 kB per cell
_MOST_BYTES = 12_000  # of a JPEG

Picture = NDArray[np.uint8]
_Dated = tuple[int, Picture]


@dataclass(slots=True)
class _Film:
    evenly: list[_Dated] = field(default_factory=list)
    last: deque[_Dated] = field(default_factory=lambda: deque(maxlen=MOST_LAST))
    seen: int = 0
    stride: int = 1

    def add(self, frame: int, picture: Picture) -> None:
        """Take the picture of one more frame."""
        self.last.append((frame, picture))
        if self.seen % self.stride == 0:
            self.evenly.append((frame, picture))
        self.seen += 1
        if len(self.evenly) > MOST_EVENLY:
            del self.evenly[1::2]
            self.stride *= 2


class Filmstrips:
    """The pictures of all followed cells. Used from one thread."""

    def __init__(self) -> None:
        self._albums: dict[int, _Film] = {}

    def see(self, frame: int, tracks: NDArray[np.int64], crops: Picture) -> None:
        """Take what a frame shows of its cells.

        Parameters
        ----------
        frame
            The driver's number.
        tracks
            (N,) numbers of the cells.
        crops
            (N, S, S, 3) RGB, corrected.
        """
        for track, crop in zip(tracks.tolist(), crops, strict=True):
            self._albums.setdefault(track, _Film()).add(frame, _small(crop))

    def strip(self, track: int) -> Filmstrip | UnsetType:
        """Return what was seen of a cell, oldest first; UNSET of one never seen."""
        album = self._albums.get(track)
        if album is None:
            return UNSET
        dated = dict(sorted([*album.evenly, *album.last], key=lambda d: d[0]))
        jpeg = to_jpeg(np.hstack([*dated.values()]), _MOST_BYTES)
        return Filmstrip(frames=tuple(dated), jpeg=jpeg)

    def forget(self, tracks: Iterable[int]) -> None:
        """Drop the pictures of cells that are no longer followed."""
        for track in tracks:
            self._albums.pop(track, None)


def _small(crop: Picture) -> Picture:
    """Return a copy of the size that is kept; a view would hold on to all crops."""
    if crop.shape[0] == SIDE_PX:
        return np.array(crop)
    size = (SIDE_PX, SIDE_PX)
    return np.asarray(cv2.resize(crop, size, interpolation=cv2.INTER_AREA), np.uint8)
