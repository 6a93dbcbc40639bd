"""Show each followed cell to a recurrent model, and tell what changes.

Every cell is cut out in a window that stays as large as it was at first, so that a cell
that swells is seen to swell.

A model that learned from short clips has never seen hours pass, and comes to expect a
change that is overdue. So each cell has two memories, of which the older one speaks;
they begin anew in turns, as long as nothing happens to the cell.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.artifacts.bundle import Bundle, crop_size
from edge.artifacts.profile import Profile
from edge.engines import RecurrentEngine
from edge.frames import RawFrame
from edge.schema.results import Box, Event, TrackPrediction
from edge.settings.timelapse import EventSettings
from edge.stages.colour_correction import correct_crops, prepare
from edge.stages.crops import cut_crops
from edge.stages.detection import are_whole
from edge.timelapse.change_events import ChangeDetector, FrameTime
from edge.timelapse.filmstrips import Filmstrips
from edge.timelapse.recurrent_state import Ids, Predictions, StateStore
from edge.timelapse.tracker import NO_TRACK, Links

_LEAST_WINDOW_UM = 9.0  # a platelet spreads to several times its width
_WHOLE_PX = 2.0  # between the border and a cell that is shown,
_CLEAR = 0.15  # or so much of its side where it is measured first
Boxes = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class FollowedFrame:
    """A frame on which cells are followed.

    `um`: micrometres per pixel; `is_field`: its one region is the field itself;
    `is_late`: frames are missing just before it.
    """

    raw: RawFrame
    um: float
    is_field: bool
    is_late: bool

    @property
    def frame_px(self) -> tuple[int, int]:
        """Width and height."""
        return int(self.raw.pixels.shape[1]), int(self.raw.pixels.shape[0])


class SequenceModel:
    """A recurrent bundle at work on the cells of one run.

    Parameters
    ----------
    bundle, engine
        The model. The engine is closed with this.
    profile
        The colours it sees cells in.
    events
        When a change is believed.
    most_cells, most_rows
        How many cells are followed at once, and go through the engine at once.
    memory_frames
        How far memories go back while nothing happens, 0 for ever.
    first_event
        The first number an event gets.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: RecurrentEngine,
        profile: Profile,
        events: EventSettings,
        *,
        most_cells: int,
        most_rows: int,
        memory_frames: int = 0,
        first_event: int = 1,
    ) -> None:
        self.bundle = bundle
        self._turn = memory_frames // 2
        self._engine, self._profile = engine, profile
        self._memory = StateStore(bundle, engine, 2 * most_cells, most_rows)
        self._changes = ChangeDetector(bundle.labels, events, first_id=first_event)
        self._albums = Filmstrips()
        self._sides: dict[int, int] = {}  # of each track's window, px
        self._stepped: dict[int, int] = {}  # the step that showed each track last
        self._steps = 0

    def show(
        self, frame: FollowedFrame, boxes: Boxes, links: Links
    ) -> tuple[dict[int, TrackPrediction], list[Event]]:
        """Show every followed cell; return what is said of each, and what happened.

        A cell that was not found is looked at where it should be: one that fades is
        seen to fade, and is not just gone. Where the border of the frame cuts a cell,
        nothing is said of how it changes.

        Parameters
        ----------
        frame
            The frame with its pixels.
        boxes
            (N, 4) px, its cells.
        links
            Their tracks.

        Raises
        ------
        EngineFailed
            The engine failed; all states are new from the next frame on.
        """
        self._steps += 1
        tracks, windows = self._windows(frame, boxes, links)
        if len(tracks) == 0:
            return {}, []
        width_px, height_px = frame.frame_px
        pixels = frame.raw.pixels
        colours = prepare(self._profile, width_px, height_px, pixels.dtype)
        crops = cut_crops(pixels, windows, crop_size(self.bundle))
        crops = correct_crops(crops, windows, colours)
        predictions = self._remember(tracks, crops)
        moment = FrameTime(frame.raw.shot.sequence, frame.raw.shot.utc)
        self._albums.see(moment.sequence, tracks, crops)
        events = self._changes.take(
            moment,
            tracks,
            predictions.probabilities,
            predictions.frames,
            _inside(windows),
        )
        shares = predictions.probabilities.astype(float).round(4).tolist()
        courses = {
            track: self._course(track, frames, share, frame.is_late)
            for track, frames, share in zip(
                tracks.tolist(), predictions.frames.tolist(), shares, strict=True
            )
        }
        return courses, self._shown(events)

    def end(self, tracks: Iterable[int], reason: str) -> list[Event]:
        """Forget tracks that are over; return the events that end with them."""
        ended = list(tracks)
        self._memory.forget(_keys(ended))
        for track in ended:
            self._sides.pop(track, None)
            self._stepped.pop(track, None)
        events = self._shown(self._changes.end(ended, reason))
        self._albums.forget(ended)
        return events

    def begin_anew(self, reason: str) -> list[Event]:
        """Forget what was seen, not which cells there are; return what ends with it."""
        self._memory.forget_all()
        return self._shown(self._changes.end_all(reason))

    def _shown(self, events: list[Event]) -> list[Event]:
        """Give each event the pictures of its cell."""
        return [
            msgspec.structs.replace(e, strip=self._albums.strip(e.track_id))
            for e in events
        ]

    def _remember(self, tracks: Ids, crops: NDArray[np.uint8]) -> Predictions:
        """Show each cell to its memories; what the older one says counts."""
        if self._turn == 0:
            return self._memory.step(2 * tracks, crops)
        keys = np.concatenate([2 * tracks, 2 * tracks + 1])
        predictions = self._memory.step(keys, np.concatenate([crops, crops]))
        ages = predictions.frames.reshape(2, -1)
        older = ages.argmax(axis=0)  # the first of two of the same age
        speaks = older * len(tracks) + np.arange(len(tracks))
        self._take_turns(tracks, older, ages)
        return Predictions(
            tracks, predictions.probabilities[speaks], predictions.frames[speaks]
        )

    def _take_turns(
        self, tracks: Ids, older: NDArray[np.intp], ages: NDArray[np.int64]
    ) -> None:
        """Let one memory of each cell begin anew, where it is time and all is quiet."""
        oldest, youngest = ages.max(axis=0), ages.min(axis=0)
        twins = (oldest == youngest) & (oldest >= self._turn)
        self._memory.forget((2 * tracks[twins] + 1).tolist())
        aged = ~twins & (oldest >= 2 * self._turn) & (youngest >= self._turn)
        for track, memory in zip(
            tracks[aged].tolist(), older[aged].tolist(), strict=True
        ):
            if not self._changes.is_open(track):
                self._memory.forget([2 * track + memory])

    @property
    def next_event(self) -> int:
        """The number of the next event."""
        return self._changes.next_id

    @property
    def remembered(self) -> int:
        """How many states there are, two of each cell."""
        return len(self._memory)

    def close(self) -> None:
        """Release the engine."""
        self._engine.close()

    def _windows(
        self, frame: FollowedFrame, boxes: Boxes, links: Links
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Tracks (N,) in order, and the square window (N, 4) px of each."""
        context = 1.0 if frame.is_field else self.bundle.record.input.context
        least = 0.0 if frame.is_field else _LEAST_WINDOW_UM / frame.um
        sizes = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
        is_new = np.array([t not in self._sides for t in links.tracks.tolist()], bool)
        # The box of what the border cuts may end before it: it would be measured small.
        margin = np.maximum(_WHOLE_PX, _CLEAR * sizes * is_new)
        is_whole = are_whole(boxes, frame.frame_px, margin)
        shown = (links.tracks != NO_TRACK) & (is_whole | frame.is_field)
        sides = np.maximum(sizes[shown] * context, max(least, 1.0))
        sides = np.rint(sides).astype(int)
        found = links.tracks[shown].tolist()
        for track, side in zip(found, sides.tolist(), strict=True):
            self._sides.setdefault(track, side)
        known = np.array([t in self._sides for t in links.coasting.tolist()], bool)
        tracks = np.concatenate([links.tracks[shown], links.coasting[known]])
        centres = np.concatenate(
            [
                (boxes[shown, :2] + boxes[shown, 2:]) / 2,
                links.coasting_um[known] / frame.um,
            ]
        )
        side = np.array([self._sides[t] for t in tracks.tolist()], float)[:, None]
        cell = np.hstack([centres, centres]) + side / context / 2 * [-1, -1, 1, 1]
        kept = are_whole(cell.astype(np.float32), frame.frame_px, _WHOLE_PX) | (
            np.arange(len(tracks)) < len(found)
        )
        order = np.flatnonzero(kept)[np.argsort(tracks[kept], kind="stable")]
        corner = np.rint(centres - side / 2)
        windows = np.hstack([corner, corner + side]).astype(np.int32)
        return tracks[order], windows[order]

    def _course(
        self, track: int, frames: int, share: list[float], is_late: bool
    ) -> TrackPrediction:
        last = self._stepped.get(track)
        self._stepped[track] = self._steps
        return TrackPrediction(
            label=self.bundle.labels[int(np.argmax(share))],
            probabilities=tuple(share),
            frames=frames,
            is_discontinuous=frames > 1 and (is_late or last != self._steps - 1),
        )


def _keys(tracks: Iterable[int]) -> list[int]:
    """Return the names of both memories of each track."""
    return [2 * track + memory for track in tracks for memory in (0, 1)]


def _inside(windows: NDArray[np.int32]) -> list[Box]:
    """Return windows as boxes that begin inside the frame."""
    return [(w[0], w[1], w[2], w[3]) for w in np.maximum(windows, 0).tolist()]
