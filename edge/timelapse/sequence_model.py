"""Show each followed cell to a recurrent model, and report what changes.

Every cell is cut out in a window that stays as large as it was at first, so that a cell
that swells is seen to swell.

A model that learned from short clips has never seen hours pass: after a long time it
expects a change that does not come. So each cell has two states, and the older one
gives the prediction. They are restarted in turns, as long as nothing happens to the
cell. So the state in use is always at least `memory_frames` / 2 old, and never older
than about `memory_frames`, once it has been running.
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

_MIN_WINDOW_UM = 9.0  # a platelet spreads to several times its width
# Least distance between a cell that is shown and the border of the frame, and the share
# of its side that it must be where the cell is measured for the first time.
_BORDER_PX = 2.0
_NEW_BORDER_SHARE = 0.15
Boxes = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class FollowedFrame:
    """A frame on which cells are followed.

    `pixel_size_um`: micrometres per pixel; `is_whole_field`: its one region is the
    whole field; `is_late`: frames are missing just before it.
    """

    raw: RawFrame
    pixel_size_um: float
    is_whole_field: bool
    is_late: bool

    @property
    def frame_px(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return int(self.raw.pixels.shape[1]), int(self.raw.pixels.shape[0])


class SequenceModel:
    """Applies a recurrent bundle to the cells of one run. Used from one thread.

    Parameters
    ----------
    bundle, engine
        The model. The engine is closed with this.
    profile
        Of colour correction.
    events
        When a change is believed.
    max_cells, max_batch
        How many cells are followed at once, and go through the engine at once.
    memory_frames
        How far states go back while nothing happens; 0 for no limit.
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
        max_cells: int,
        max_batch: int,
        memory_frames: int = 0,
        first_event: int = 1,
    ) -> None:
        self.bundle = bundle
        self._restart_frames = memory_frames // 2
        self._engine, self._profile = engine, profile
        self._states = StateStore(bundle, engine, 2 * max_cells, max_batch)
        self._detector = ChangeDetector(bundle.labels, events, first_id=first_event)
        self._filmstrips = Filmstrips()
        self._window_px: dict[int, int] = {}  # side, by track
        self._last_step: dict[int, int] = {}  # that showed the cell, by track
        self._steps = 0

    def add_frame(
        self, frame: FollowedFrame, boxes: Boxes, links: Links
    ) -> tuple[dict[int, TrackPrediction], list[Event]]:
        """Show every followed cell; return predictions by track, and events.

        A cell that was not found is cut out where it should be, so that one that fades
        is seen to fade. For a cell that the border of the frame cuts, there is no
        prediction.

        Parameters
        ----------
        frame
            The frame.
        boxes
            (N, 4) float32 px, its cells.
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
        predicted = self._predict(tracks, crops)
        time = FrameTime(frame.raw.shot.sequence, frame.raw.shot.utc)
        self._filmstrips.add_frame(time.sequence, tracks, crops)
        events = self._detector.add_frame(
            time,
            tracks,
            predicted.probabilities,
            predicted.frames,
            _clipped(windows),
        )
        probabilities = predicted.probabilities.astype(float).round(4).tolist()
        each = zip(
            tracks.tolist(), predicted.frames.tolist(), probabilities, strict=True
        )
        predictions = {
            track: self._prediction(track, frames, row, frame.is_late)
            for track, frames, row in each
        }
        return predictions, self._with_filmstrips(events)

    def end(self, tracks: Iterable[int], reason: str) -> list[Event]:
        """Forget tracks that are over; return the events that end with them."""
        ended = list(tracks)
        self._states.forget(_state_keys(ended))
        for track in ended:
            self._window_px.pop(track, None)
            self._last_step.pop(track, None)
        events = self._with_filmstrips(self._detector.end(ended, reason))
        self._filmstrips.forget(ended)
        return events

    def restart(self, reason: str) -> list[Event]:
        """Drop all states, but no tracks; return the events that end with them."""
        self._states.forget_all()
        return self._with_filmstrips(self._detector.end_all(reason))

    def _with_filmstrips(self, events: list[Event]) -> list[Event]:
        """Give each event the pictures of its cell."""
        return [
            msgspec.structs.replace(e, strip=self._filmstrips.filmstrip(e.track_id))
            for e in events
        ]

    def _predict(self, tracks: Ids, crops: NDArray[np.uint8]) -> Predictions:
        """Step both states of each cell; the older one gives the prediction.

        `tracks` (N,) int64, `crops` (N, S, S, 3) uint8 RGB.
        """
        if self._restart_frames == 0:
            return self._states.step(2 * tracks, crops)
        keys = np.concatenate([2 * tracks, 2 * tracks + 1])
        predictions = self._states.step(keys, np.concatenate([crops, crops]))
        ages = predictions.frames.reshape(2, -1)
        older = ages.argmax(axis=0)  # the first where both are of one age
        chosen = older * len(tracks) + np.arange(len(tracks))
        self._restart_states(tracks, older, ages)
        return Predictions(
            tracks, predictions.probabilities[chosen], predictions.frames[chosen]
        )

    def _restart_states(
        self, tracks: Ids, older: NDArray[np.intp], ages: NDArray[np.int64]
    ) -> None:
        """Drop one state of each cell, where it is due and nothing happens to the cell.

        `older` (N,) is 0 or 1, `ages` (2, N) frames since each state was new.
        """
        oldest, youngest = ages.max(axis=0), ages.min(axis=0)
        # Both states of a new cell are of one age; the second is restarted once, after
        # half of the memory. From then on they are half a memory apart.
        twins = (oldest == youngest) & (oldest >= self._restart_frames)
        self._states.forget((2 * tracks[twins] + 1).tolist())
        due = (
            ~twins
            & (oldest >= 2 * self._restart_frames)
            & (youngest >= self._restart_frames)
        )
        for track, state in zip(tracks[due].tolist(), older[due].tolist(), strict=True):
            if not self._detector.is_open(track):
                self._states.forget([2 * track + state])

    @property
    def next_event(self) -> int:
        """The number of the next event."""
        return self._detector.next_id

    @property
    def remembered(self) -> int:
        """How many states there are, two of each cell."""
        return len(self._states)

    def close(self) -> None:
        """Release the engine."""
        self._engine.close()

    def _windows(
        self, frame: FollowedFrame, boxes: Boxes, links: Links
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return tracks (M,) in rising order, and the square window (M, 4) px of each.

        `boxes` (N, 4) float32 px are the cells of the frame.
        """
        context = 1.0 if frame.is_whole_field else self.bundle.record.input.context
        is_shown = self._measure(frame, boxes, links, context)
        found = links.tracks[is_shown]
        is_known = np.array(
            [t in self._window_px for t in links.coasting.tolist()], bool
        )
        tracks = np.concatenate([found, links.coasting[is_known]])
        expected = links.coasting_um[is_known] / frame.pixel_size_um
        centres = np.concatenate(
            [(boxes[is_shown, :2] + boxes[is_shown, 2:]) / 2, expected]
        )
        side = np.array([self._window_px[t] for t in tracks.tolist()], float)[:, None]
        # A coasting cell has no box. The one it had at first, moved to where it should
        # be, tells whether the border would cut it.
        cell = np.hstack([centres, centres]) + side / context / 2 * [-1, -1, 1, 1]
        is_kept = are_whole(cell.astype(np.float32), frame.frame_px, _BORDER_PX) | (
            np.arange(len(tracks)) < len(found)
        )
        order = np.flatnonzero(is_kept)[np.argsort(tracks[is_kept], kind="stable")]
        corner = np.rint(centres - side / 2)
        windows = np.hstack([corner, corner + side]).astype(np.int32)
        return tracks[order], windows[order]

    def _measure(
        self, frame: FollowedFrame, boxes: Boxes, links: Links, context: float
    ) -> NDArray[np.bool_]:
        """Fix the window of each new cell; return which cells (N,) are shown.

        `boxes` (N, 4) float32 px. A window is `context` times the longer side of a
        cell.
        """
        min_side = 0.0 if frame.is_whole_field else _MIN_WINDOW_UM / frame.pixel_size_um
        sizes = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
        is_new = np.array(
            [t not in self._window_px for t in links.tracks.tolist()], bool
        )
        # The box of a cell that the border cuts may end some pixels before the border.
        # A new cell must be clear of it, or its window would be too small for good.
        margin = np.maximum(_BORDER_PX, _NEW_BORDER_SHARE * sizes * is_new)
        is_whole = are_whole(boxes, frame.frame_px, margin)
        is_shown = (links.tracks != NO_TRACK) & (is_whole | frame.is_whole_field)
        sides = np.maximum(sizes[is_shown] * context, max(min_side, 1.0))
        sides = np.rint(sides).astype(int)
        found = links.tracks[is_shown].tolist()
        for track, side in zip(found, sides.tolist(), strict=True):
            self._window_px.setdefault(track, side)
        return np.asarray(is_shown)

    def _prediction(
        self, track: int, frames: int, probabilities: list[float], is_late: bool
    ) -> TrackPrediction:
        """Return the prediction of a cell, from `probabilities` (K,)."""
        last = self._last_step.get(track)
        self._last_step[track] = self._steps
        return TrackPrediction(
            label=self.bundle.labels[int(np.argmax(probabilities))],
            probabilities=tuple(probabilities),
            frames=frames,
            is_discontinuous=frames > 1 and (is_late or last != self._steps - 1),
        )


def _state_keys(tracks: Iterable[int]) -> list[int]:
    """Return the keys of both states of each track: 2 * track, and one more."""
    return [2 * track + state for track in tracks for state in (0, 1)]


def _clipped(windows: NDArray[np.int32]) -> list[Box]:
    """Return windows (N, 4) px as boxes that begin inside the frame."""
    return [(w[0], w[1], w[2], w[3]) for w in np.maximum(windows, 0).tolist()]
