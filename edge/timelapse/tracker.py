"""Follow cells from frame to frame: a number for each, as long as it is there.

The life of a track: it begins with a cell that no track explains. It is confirmed, and
its number is given out, once it was found in `confirm_after` frames. While its cell is
not found it coasts: it moves on along its expected path. It ends when it was missing
for too long, when its cell has left the frame, or when the field of view is another
one.

A frame is linked in four steps: predict where each cell should be, estimate the shift
of the whole field, assign found cells to tracks, and correct each track by its cell.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from edge.settings.timelapse import TrackingSettings
from edge.timelapse.assignment import Positions, assign, estimate_shift, is_chance

_MAX_GATE_FACTOR = 2.0  # gate of a missing track over the gate of one that was found
_MIN_GAIN, _MIN_VELOCITY_GAIN = 0.5, 0.08  # of the filter, once it has settled

NO_TRACK = -1


@dataclass(frozen=True, slots=True, eq=False)
class FoundCells:
    """The cells of one frame.

    `positions_um` (N, 2) float64, centres, x and y from the frame's top left corner;
    `sizes_um` (N,) float64, widths; `may_begin` (N,) bool, whether a track may begin
    with it.
    """

    positions_um: Positions
    sizes_um: NDArray[np.float64]
    may_begin: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Links:
    """What became of the tracks with one frame.

    `tracks` (N,) int64: the number of each found cell, `NO_TRACK` where it has none, or
    is not confirmed yet. `coasting` (K,) int64 and `coasting_um` (K, 2) float64: tracks
    not found, and where they should be. `ended` (E,) int64: tracks that are over.
    `shift_um` (2,) float64: how far the field moved, the part that the velocities of
    its cells predicted included; None where nothing tells it. `not_followed` and
    `dropped` count the cells and tracks beyond the maximum number of tracks.
    """

    tracks: NDArray[np.int64]
    coasting: NDArray[np.int64]
    coasting_um: Positions
    ended: NDArray[np.int64]
    shift_um: Positions | None = None
    is_new_field: bool = False
    not_followed: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Tracks:
    """All tracks, one row each.

    `ids` (T,); `positions` (T, 2) µm; `velocities` (T, 2) µm per frame, the shift of
    the field not included; `sizes` (T,) µm; `hits` (T,) frames that found the cell;
    `misses` (T,) frames since it was found last.
    """

    ids: NDArray[np.int64]
    positions: Positions
    velocities: Positions
    sizes: NDArray[np.float64]
    hits: NDArray[np.int64]
    misses: NDArray[np.int64]

    def select(self, is_kept: NDArray[np.bool_]) -> _Tracks:
        """Return the tracks where `is_kept` (T,)."""
        if is_kept.all():
            return self
        return _Tracks(*(getattr(self, f.name)[is_kept] for f in fields(self)))

    def with_new(self, ids: NDArray[np.int64], found: FoundCells) -> _Tracks:
        """Return these tracks and new ones (P,), found once and at rest."""
        count = len(ids)
        new = (
            ids,
            found.positions_um,
            np.zeros((count, 2)),
            found.sizes_um,
            np.ones(count, np.int64),
            np.zeros(count, np.int64),
        )
        old = (getattr(self, f.name) for f in fields(self))
        return _Tracks(*(np.concatenate(pair) for pair in zip(old, new, strict=True)))


def _no_tracks() -> _Tracks:
    none = np.zeros(0, np.int64)
    return _Tracks(none, np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0), none, none)


def _is_inside(
    positions: Positions, frame_um: tuple[float, float]
) -> NDArray[np.bool_]:
    """Whether positions (N, 2) µm lie in a frame of this width and height."""
    return np.asarray(((positions >= 0) & (positions < np.array(frame_um))).all(axis=1))


class Tracker:
    """Follows the cells of one run. Used from one thread.

    Invariants: a number is given to one cell only and never again; the work of a frame
    depends on the cells in view, not on how long they have been followed.

    Parameters
    ----------
    settings
        Gates, limits and counts.
    first_id
        The first number that is given, so that a run which goes on after an
        interruption gives none twice.
    """

    def __init__(self, settings: TrackingSettings, *, first_id: int = 1) -> None:
        self._settings = settings
        self.next_id = first_id
        self._tracks = _no_tracks()
        self._last_shift = np.zeros(2)

    @property
    def live(self) -> int:
        """How many tracks there are, those not confirmed yet included."""
        return len(self._tracks.ids)

    def follow(
        self,
        found: FoundCells,
        steps: int | None,
        frame_um: tuple[float, float],
        *,
        shift_um: tuple[float, float] | None = None,
        is_new_field: bool = False,
    ) -> Links:
        """Link the cells of the next frame.

        Parameters
        ----------
        found
            Its cells.
        steps
            Usual intervals since the frame before, 1 where none is missing; None after
            a pause too long to predict where cells went: their velocities are dropped.
        frame_um
            Width and height of the frame.
        shift_um
            How far the picture moved since the frame before, where the stage reports
            it; otherwise it is estimated from the cells.
        is_new_field
            The stage reports that this is another field of view: all tracks end.
        """
        if is_new_field:
            return self._start_new_field(found)
        if steps is None:
            steps, old = 1, self._tracks
            self._tracks = replace(old, velocities=np.zeros_like(old.velocities))
        predicted = self._tracks.positions + self._predicted_step(steps)
        shift = self._shift(predicted, found, shift_um)
        expected = predicted + (0 if shift is None else shift)
        # Tracks that left the frame end before the assignment, so that they cannot take
        # a cell at its border.
        is_inside = _is_inside(expected, frame_um)
        left_frame = self._confirmed_ids(self._tracks.select(~is_inside))
        self._tracks, expected = self._tracks.select(is_inside), expected[is_inside]
        chosen = self._assign(expected, found)
        # A shift that the stage reports needs no test: the place is known to be this.
        if shift_um is None and self._is_chance(chosen, found, frame_um):
            return self._start_new_field(found, left_frame)
        self._last_shift = np.zeros(2) if shift is None else shift
        whole_shift = shift
        if shift is not None and shift_um is None:
            whole_shift = self._whole_shift(chosen, found, shift)
        links = self._update(found, expected, chosen, steps, left_frame)
        return replace(links, shift_um=whole_shift)

    def resume(self, ids: NDArray[np.int64], found: FoundCells) -> None:
        """Go on with confirmed tracks (P,) of an earlier process, as if just found.

        Those beyond the maximum number of tracks, which may be another one now, end.
        """
        resumed = _no_tracks().with_new(ids, found)
        hits = np.full(len(ids), self._settings.confirm_after, np.int64)
        has_room = np.arange(len(ids)) < self._settings.most_tracks
        self._tracks = replace(resumed, hits=hits).select(has_room)

    def rescale(self, factor: float) -> None:
        """Go on with another scale: a pixel proved to be `factor` times as wide."""
        old = self._tracks
        self._tracks = replace(
            old,
            positions=old.positions * factor,
            velocities=old.velocities * factor,
            sizes=old.sizes * factor,
        )
        self._last_shift = self._last_shift * factor

    def end_all(self) -> NDArray[np.int64]:
        """End all tracks; return the numbers (E,) of those that were confirmed."""
        ended = self._confirmed_ids(self._tracks)
        self._tracks = _no_tracks()
        return ended

    @property
    def _is_confirmed(self) -> NDArray[np.bool_]:
        """Whether each track (T,) was found often enough to be given out."""
        return np.asarray(self._tracks.hits >= self._settings.confirm_after)

    def _confirmed_ids(self, tracks: _Tracks) -> NDArray[np.int64]:
        """Return the numbers of the confirmed ones: only these were ever given out."""
        return tracks.ids[tracks.hits >= self._settings.confirm_after]

    def _predicted_step(self, steps: int) -> Positions:
        """Return how far each cell moves on its own (T, 2) µm, at most by the gate."""
        # A velocity beyond the gate is an error of the filter, not of a cell. Without
        # the limit such a track would run away while it coasts, and take other cells.
        step = self._tracks.velocities * steps
        length = np.hypot(step[:, 0], step[:, 1])
        gate_um = self._settings.most_step_um
        return np.asarray(
            step * np.minimum(1, gate_um / np.maximum(length, gate_um))[:, None]
        )

    def _shift(
        self,
        predicted: Positions,
        found: FoundCells,
        shift_um: tuple[float, float] | None,
    ) -> Positions | None:
        """Return the shift (2,) µm of the field against `predicted` (T, 2) µm."""
        if shift_um is not None:
            return np.array(shift_um, float)
        return estimate_shift(
            predicted,
            found.positions_um,
            self._settings.most_step_um,
            self._settings.most_shift_um,
            self._last_shift,  # tried first, since most stages drift steadily
        )

    def _assign(self, expected: Positions, found: FoundCells) -> NDArray[np.intp]:
        """Return the found cell (T,) of each track at `expected` (T, 2) µm, or -1."""
        # The gate of a missing track widens by half per frame, since its cell may have
        # turned. It stops at twice: a wider gate would reach the neighbours' cells.
        gates_um = self._settings.most_step_um * np.minimum(
            1 + 0.5 * self._tracks.misses, _MAX_GATE_FACTOR
        )
        return assign(
            expected, self._tracks.sizes, gates_um, found.positions_um, found.sizes_um
        )

    def _is_chance(
        self,
        chosen: NDArray[np.intp],
        found: FoundCells,
        frame_um: tuple[float, float],
    ) -> bool:
        """Whether the links `chosen` (T,) are no better than those of another field."""
        # Only confirmed tracks are counted. A young one may be a false find, and its
        # missing link would count as evidence of another field.
        is_confirmed = self._is_confirmed
        count = len(found.positions_um)
        return is_chance(
            int((chosen[is_confirmed] >= 0).sum()),
            int(is_confirmed.sum()),
            count,
            count / max(float(np.prod(frame_um)), 1e-9),
            self._settings.most_step_um,
        )

    def _whole_shift(
        self, chosen: NDArray[np.intp], found: FoundCells, shift: Positions
    ) -> Positions:
        """Return how far the picture moved (2,) µm since the frame before.

        `shift` (2,) is the part that the velocities of the cells did not predict.
        """
        # When all cells drift together for long, the filter makes the drift part of
        # every velocity, and `shift` tends to zero although the stage moves. The median
        # movement of linked cells holds both parts.
        is_linked = chosen >= 0
        if not is_linked.any():
            return shift
        before = self._tracks.positions[is_linked]
        moved = found.positions_um[chosen[is_linked]] - before
        return np.asarray(np.median(moved, axis=0))

    def _start_new_field(
        self, found: FoundCells, left_frame: NDArray[np.int64] | None = None
    ) -> Links:
        """End all tracks, and begin new ones: this is another field of view."""
        before = [] if left_frame is None else [left_frame]
        ended = np.concatenate([*before, self.end_all()])
        self._last_shift = np.zeros(2)
        numbers = np.full(len(found.positions_um), NO_TRACK, np.int64)
        links = self._begin(found, numbers, ended)
        return replace(links, is_new_field=True)

    def _update(
        self,
        found: FoundCells,
        expected: Positions,
        chosen: NDArray[np.intp],
        steps: int,
        left_frame: NDArray[np.int64],
    ) -> Links:
        """Correct the tracks that were found, let the others coast, end the missing.

        `expected` (T, 2) µm and `chosen` (T,) are those of the tracks; `left_frame`
        (E,) numbers of tracks that are over already.

        An alpha-beta filter: with the innovation e = found - expected,
        x = expected + gain * e and v = v + velocity_gain * e / steps.
        """
        old, is_hit = self._tracks, chosen >= 0
        # After n finds the gains are 2(2n-1) / (n(n+1)) and 6 / (n(n+1)). Up to there
        # the estimate is the straight line of least squares through all finds
        # (Brookner, Tracking and Kalman Filtering Made Easy, 1998: the expanding-memory
        # filter). Floors keep the gains from vanishing, since cells turn. Constant
        # gains alone would take many frames to learn the velocity of a new track.
        hits = old.hits + is_hit
        gain = np.maximum(2 * (2 * hits - 1) / (hits * (hits + 1)), _MIN_GAIN)
        velocity_gain = np.maximum(6 / (hits * (hits + 1)), _MIN_VELOCITY_GAIN)
        innovation, sizes = np.zeros_like(expected), old.sizes.copy()
        innovation[is_hit] = found.positions_um[chosen[is_hit]] - expected[is_hit]
        sizes[is_hit] = found.sizes_um[chosen[is_hit]]
        now = _Tracks(
            old.ids,
            expected + gain[:, None] * innovation,
            old.velocities + velocity_gain[:, None] * innovation / steps,
            sizes,
            hits,
            np.where(is_hit, 0, old.misses + 1),
        )
        # A track that was never confirmed ends at its first miss: it was noise.
        is_young = now.hits < self._settings.confirm_after
        is_over = now.misses > np.where(is_young, 0, self._settings.coast_frames)
        ended = np.concatenate([left_frame, self._confirmed_ids(now.select(is_over))])
        numbers = np.full(len(found.positions_um), NO_TRACK, np.int64)
        numbers[chosen[is_hit]] = now.ids[is_hit]
        self._tracks = now.select(~is_over)
        return self._begin(found, numbers, ended)

    def _begin(
        self, found: FoundCells, numbers: NDArray[np.int64], ended: NDArray[np.int64]
    ) -> Links:
        """Begin tracks with the cells that have none, as far as there is room.

        `numbers` (N,) of the found cells, filled in place; `ended` (E,) numbers.
        """
        # Numbers are used up here, but given out only once a track is confirmed: so
        # they may have gaps. Reusing one could give the number of a lost cell to
        # another.
        new = np.flatnonzero((numbers == NO_TRACK) & found.may_begin)
        dropped = self._make_room(len(new))
        room = self._settings.most_tracks - self.live
        begun = new[: max(room, 0)]
        ids = self.next_id + np.arange(len(begun), dtype=np.int64)
        self.next_id += len(begun)
        numbers[begun] = ids
        cells = FoundCells(
            found.positions_um[begun], found.sizes_um[begun], found.may_begin[begun]
        )
        self._tracks = self._tracks.with_new(ids, cells)
        is_confirmed = self._is_confirmed
        numbers[~np.isin(numbers, self._tracks.ids[is_confirmed])] = NO_TRACK
        coasts = is_confirmed & (self._tracks.misses > 0)
        return Links(
            numbers,
            self._tracks.ids[coasts],
            self._tracks.positions[coasts],
            np.concatenate([ended, dropped]),
            not_followed=len(new) - len(begun),
            dropped=len(dropped),
        )

    def _make_room(self, wanted: int) -> NDArray[np.int64]:
        """Drop the tracks that were missing longest, for `wanted` new ones.

        Returns the numbers (D,) of those that were confirmed.
        """
        # A track that was found in this frame is never dropped for a new cell: a long
        # history is worth more than a new one, and two would only take turns.
        excess = self.live + wanted - self._settings.most_tracks
        missing = np.flatnonzero(self._tracks.misses > 0)
        if excess <= 0 or len(missing) == 0:
            return np.zeros(0, np.int64)
        order = np.argsort(-self._tracks.misses[missing], kind="stable")
        is_dropped = np.zeros(self.live, bool)
        is_dropped[missing[order[:excess]]] = True
        dropped = self._confirmed_ids(self._tracks.select(is_dropped))
        self._tracks = self._tracks.select(~is_dropped)
        return dropped
