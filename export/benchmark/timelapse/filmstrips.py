"""Draw tracks over time: the cell in some frames, and the probabilities of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.schema.results import Cell, FrameResult
from edge.simulation.microscope import SimulatedMicroscope

_TILE_PX, _TILES, _ROWS = 84, 14, 8
_BAND_PX, _GAP_PX, _NAME_PX = 14, 8, 150
_FRAMES_BEFORE = 10  # shown before the onset
_COLOURS = ((190, 190, 190), (0, 114, 178), (213, 94, 0), (0, 158, 115))  # Okabe-Ito
Picture = NDArray[np.uint8]


@dataclass(slots=True)
class TrackRow:
    """One track: its frames, its boxes, and the probabilities of classes in each."""

    frames: list[int] = field(default_factory=list)
    boxes: list[tuple[int, int, int, int]] = field(default_factory=list)
    probabilities: list[tuple[float, ...]] = field(default_factory=list)

    def add(self, result: FrameResult, cell: Cell) -> None:
        """Add one frame; a cell without probabilities of classes is left out."""
        if cell.course is msgspec.UNSET:
            return
        self.frames.append(result.frame.first)
        self.boxes.append(cell.box)
        self.probabilities.append(cell.course.probabilities)


def draw_strips(
    microscope: SimulatedMicroscope,
    run: Sequence[FrameResult],
    tracks: Mapping[int, TrackRow],
) -> Picture:
    """Draw events of a run: for each kind of change those of the two longest tracks.

    Returns
    -------
    NDArray[np.uint8]
        (H, W, 3) RGB: a row of tiles per track; below, the probability of each class
        in every frame, as heights of its colour; a line where the event began.
    """
    events = [e for result in run for e in result.events if e.phase == "confirmed"]
    chosen = []
    for change in sorted({e.change for e in events}):
        longest = sorted(
            (e for e in events if e.change == change and e.track_id in tracks),
            key=lambda e: -len(tracks[e.track_id].frames),
        )
        chosen += longest[:2]
    following = next(result.following for result in run if result.following is not None)
    rows = [_legend(following.classes)]
    for event in chosen[:_ROWS]:
        name = f"cell {event.track_id}: {event.change}"
        rows.append(_row(microscope, tracks[event.track_id], name, event.onset))
    return np.vstack(rows)


def _legend(names: Sequence[str]) -> Picture:
    """Name the colour of each class."""
    legend = np.full((26, _NAME_PX + _TILES * _TILE_PX, 3), 255, np.uint8)
    for column, (name, colour) in enumerate(zip(names, _COLOURS, strict=False)):
        x = _NAME_PX + column * 130
        legend[8:20, x : x + 12] = colour
        _write(legend, name, (x + 18, 19))
    return legend


def _row(
    microscope: SimulatedMicroscope, track: TrackRow, name: str, onset: int
) -> Picture:
    """Draw a track from a little before the onset on, every other frame a tile."""
    at = next((i for i, f in enumerate(track.frames) if f >= onset), 0)
    shown = range(max(0, at - _FRAMES_BEFORE), min(len(track.frames), at + 2 * _TILES))
    shown = shown[: 2 * _TILES]
    width = _TILES * _TILE_PX
    row = np.full((_TILE_PX + _BAND_PX + 2 * _GAP_PX, width, 3), 255, np.uint8)
    for column, i in enumerate(shown[::2]):
        x = column * _TILE_PX
        tile = _tile(microscope, track.frames[i], track.boxes[at])
        row[: _TILE_PX - 2, x : x + _TILE_PX - 2] = tile
    for column, i in enumerate(shown):
        x0, x1 = column * _TILE_PX // 2, (column + 1) * _TILE_PX // 2
        edges = np.rint(np.cumsum([0.0, *track.probabilities[i]]) * _BAND_PX).astype(
            int
        )
        for colour, y0, y1 in zip(_COLOURS, edges[:-1], edges[1:], strict=False):
            row[_TILE_PX + y0 : _TILE_PX + y1, x0:x1] = colour
        if track.frames[i] == onset:
            row[:, x0 : x0 + 2] = 0
    margin = np.full((len(row), _NAME_PX, 3), 255, np.uint8)
    _write(margin, name, (4, 36))
    _write(margin, f"onset frame {onset}", (4, 58))
    return np.hstack([margin, row])


def _tile(
    microscope: SimulatedMicroscope, frame: int, box: tuple[int, int, int, int]
) -> Picture:
    """Cut a cell with its surroundings out of a frame."""
    side = max(box[2] - box[0], box[3] - box[1])
    half = max(side, 30)
    x, y = (box[0] + box[2]) // 2, (box[1] + box[3]) // 2
    field_ = cv2.copyMakeBorder(
        microscope.render(frame), half, half, half, half, cv2.BORDER_REFLECT
    )
    cut = field_[y : y + 2 * half, x : x + 2 * half]
    return np.asarray(cv2.resize(cut, (_TILE_PX - 2, _TILE_PX - 2)), np.uint8)


def _write(picture: Picture, text: str, at: tuple[int, int]) -> None:
    """Write a text into a picture, its lower left corner at (x, y)."""
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(picture, text, at, font, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
