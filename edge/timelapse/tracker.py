"""Follow cells from frame to frame: a number for each, as long as it is there.

A track begins with a cell that no track explains, is told once it was found often
enough, coasts along its expected way while it is not found, and ends when it has been
missing too long, has left the frame, or the field of view is another one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from edge.settings.timelapse import TrackingSettings
from edge.timelapse.assignment import Places, assign, estimate_shift, is_chance

_WIDEST_GATE = 2.0  # of a track that is missing, times the gate of one that is not
_LEAST_GAIN, _LEAST_SPEED_GAIN = 0.5, 0.08  # of the filter, once it has settled

NO_TRACK = -1


@dataclass(frozen=True, slots=True, eq=False)
class FoundCells:
    """The cells of one frame.

    `places_um` (N, 2) centres, x and y from the frame's top left corner; `sizes_um`
    (N,) widths; `may_begin` (N,) whether a track may begin with it.
    """

    places_um: Places
    sizes_um: NDArray[np.float64]
    may_begin: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Links:
    """What became of the tracks with one frame.

    `tracks` (N,) int64: the number of each found cell, `NO_TRACK` where it has none, or
    not yet. `coasting` (K,) and `coasting_um` (K, 2): tracks not found, and where they
    should be. `ended` (E,): tracks that are over. `shift_um` (2,): how far the field
    moved, with what the speeds of its cells foresaw; None where nobody could tell.
    `not_followed` and `dropped` count what exceeded the number of tracks.
    """

    tracks: NDArray[np.int64]
    coasting: NDArray[np.int64]
    coasting_um: Places
    ended: NDArray[np.int64]
    shift_um: Places | None = None
    is_new_field: bool = False
    not_followed: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Tracks:
    """All tracks, one row each: `speeds` are µm per frame, beside the field's."""

    ids: NDArray[np.int64]
    places: Places
    speeds: Places
    sizes: NDArray[np.float64]
    seen: NDArray[np.int64]
    missed: NDArray[np.int64]

    def pick(self, kept: NDArray[np.bool_]) -> _Tracks:
        """Return the tracks at these places."""
        if kept.all():
            return self
        return _Tracks(*(getattr(self, f.name)[kept] for f in fields(self)))

    def and_new(self, ids: NDArray[np.int64], found: FoundCells) -> _Tracks:
        """Return these tracks and new ones, seen once."""
        count = len(ids)
        new = (
            ids,
            found.places_um,
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


def _inside(places: Places, frame_um: tuple[float, float]) -> NDArray[np.bool_]:
    return np.asarray(((places >= 0) & (places < np.array(frame_um))).all(axis=1))


class Tracker:
    """Follows the cells of one run. The work of a frame does not grow with the past.

    `first_id`: the first number that is given, so that a run which goes on after an
    interruption gives none twice.
    """

    def __init__(self, settings: TrackingSettings, *, first_id: int = 1) -> None:
        self._settings = settings
        self.next_id = first_id
        self._tracks = _no_tracks()
        self._last_shift = np.zeros(2)

    @property
    def live(self) -> int:
        """How many tracks there are, those too young to be told included."""
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
            a pause too long to foresee where cells went: their speeds are forgotten.
        frame_um
            Its width and height.
        shift_um
            How far the picture moved since the frame before, where somebody measured
            it; otherwise the cells tell.
        is_new_field
            Somebody knows that this is another place: all tracks end.
        """
        if is_new_field:
            return self._begin_anew(found)
        if steps is None:
            steps = 1
            self._tracks = replace(
                self._tracks, speeds=np.zeros_like(self._tracks.speeds)
            )
        shift = None if shift_um is None else np.array(shift_um, float)
        expected = self._tracks.places + self._own_step(steps)
        if shift is None:
            shift = estimate_shift(
                expected,
                found.places_um,
                self._settings.most_step_um,
                self._settings.most_shift_um,
                self._last_shift,
            )
        moved = expected + (0 if shift is None else shift)
        inside = _inside(moved, frame_um)
        gone = self._told(self._tracks.pick(~inside))
        self._tracks, moved = self._tracks.pick(inside), moved[inside]
        gates = self._settings.most_step_um * np.minimum(
            1 + 0.5 * self._tracks.missed, _WIDEST_GATE
        )
        chosen = assign(
            moved, self._tracks.sizes, gates, found.places_um, found.sizes_um
        )
        density = len(found.places_um) / max(float(np.prod(frame_um)), 1e-9)
        told = self._is_told
        if shift_um is None and is_chance(
            int((chosen[told] >= 0).sum()),
            int(told.sum()),
            len(found.places_um),
            density,
            self._settings.most_step_um,
        ):
            return self._begin_anew(found, gone)
        self._last_shift = np.zeros(2) if shift is None else shift
        whole, linked = shift, chosen >= 0
        if shift is not None and shift_um is None and linked.any():
            came = found.places_um[chosen[linked]] - self._tracks.places[linked]
            whole = np.median(came, axis=0)
        return replace(self._update(found, moved, chosen, steps, gone), shift_um=whole)

    def take_up(self, ids: NDArray[np.int64], found: FoundCells) -> None:
        """Go on with cells that were told before, as if they had just been seen.

        Those beyond the number of tracks, which may be another one now, are over.
        """
        taken = _no_tracks().and_new(ids, found)
        seen = np.full(len(ids), self._settings.confirm_after, np.int64)
        has_room = np.arange(len(ids)) < self._settings.most_tracks
        self._tracks = replace(taken, seen=seen).pick(has_room)

    def rescale(self, factor: float) -> None:
        """Go on with other micrometres: a pixel proved to be so many times as wide."""
        old = self._tracks
        self._tracks = replace(
            old,
            places=old.places * factor,
            speeds=old.speeds * factor,
            sizes=old.sizes * factor,
        )
        self._last_shift = self._last_shift * factor

    def end_all(self) -> NDArray[np.int64]:
        """End all tracks and return the numbers of those that were told."""
        ended = self._told(self._tracks)
        self._tracks = _no_tracks()
        return ended

    @property
    def _is_told(self) -> NDArray[np.bool_]:
        return np.asarray(self._tracks.seen >= self._settings.confirm_after)

    def _told(self, tracks: _Tracks) -> NDArray[np.int64]:
        return tracks.ids[tracks.seen >= self._settings.confirm_after]

    def _own_step(self, steps: int) -> Places:
        """How far each cell moves beside the field, µm; never beyond the gate."""
        step = self._tracks.speeds * steps
        length = np.hypot(step[:, 0], step[:, 1])
        most = self._settings.most_step_um
        return np.asarray(
            step * np.minimum(1, most / np.maximum(length, most))[:, None]
        )

    def _begin_anew(
        self, found: FoundCells, gone: NDArray[np.int64] | None = None
    ) -> Links:
        """End everything: this is another place."""
        before = [] if gone is None else [gone]
        ended = np.concatenate([*before, self.end_all()])
        self._last_shift = np.zeros(2)
        numbers = np.full(len(found.places_um), NO_TRACK, np.int64)
        links = self._begin(found, numbers, ended)
        return replace(links, is_new_field=True)

    def _update(
        self,
        found: FoundCells,
        moved: Places,
        chosen: NDArray[np.intp],
        steps: int,
        gone: NDArray[np.int64],
    ) -> Links:
        """Correct the tracks that were found, let the others coast, end the missing.

        An alpha-beta filter whose gains begin as those of a straight line through all
        places so far (Brookner, 1998): 2(2n-1)/n(n+1) and 6/n(n+1).
        """
        old, hit = self._tracks, chosen >= 0
        count = old.seen + hit
        gain = np.maximum(2 * (2 * count - 1) / (count * (count + 1)), _LEAST_GAIN)
        speed_gain = np.maximum(6 / (count * (count + 1)), _LEAST_SPEED_GAIN)
        off, sizes = np.zeros_like(moved), old.sizes.copy()
        off[hit] = found.places_um[chosen[hit]] - moved[hit]
        sizes[hit] = found.sizes_um[chosen[hit]]
        speeds = old.speeds + speed_gain[:, None] * off / steps
        now = _Tracks(
            old.ids,
            moved + gain[:, None] * off,
            speeds,
            sizes,
            count,
            np.where(hit, 0, old.missed + 1),
        )
        is_young = now.seen < self._settings.confirm_after
        over = now.missed > np.where(is_young, 0, self._settings.coast_frames)
        ended = np.concatenate([gone, self._told(now.pick(over))])
        numbers = np.full(len(found.places_um), NO_TRACK, np.int64)
        numbers[chosen[hit]] = now.ids[hit]
        self._tracks = now.pick(~over)
        return self._begin(found, numbers, ended)

    def _begin(
        self, found: FoundCells, numbers: NDArray[np.int64], ended: NDArray[np.int64]
    ) -> Links:
        """Begin tracks with the cells that have none, as far as there is room."""
        new = np.flatnonzero((numbers == NO_TRACK) & found.may_begin)
        dropped = self._make_room(len(new))
        room = self._settings.most_tracks - self.live
        begun = new[: max(room, 0)]
        ids = self.next_id + np.arange(len(begun), dtype=np.int64)
        self.next_id += len(begun)
        numbers[begun] = ids
        self._tracks = self._tracks.and_new(
            ids,
            FoundCells(
                found.places_um[begun], found.sizes_um[begun], found.may_begin[begun]
            ),
        )
        told = self._is_told
        numbers[~np.isin(numbers, self._tracks.ids[told])] = NO_TRACK
        coasts = told & (self._tracks.missed > 0)
        return Links(
            numbers,
            self._tracks.ids[coasts],
            self._tracks.places[coasts],
            np.concatenate([ended, dropped]),
            not_followed=len(new) - len(begun),
            dropped=len(dropped),
        )

    def _make_room(self, wanted: int) -> NDArray[np.int64]:
        """Drop the tracks that have been missing longest; return those once told."""
        over = self.live + wanted - self._settings.most_tracks
        missing = np.flatnonzero(self._tracks.missed > 0)
        if over <= 0 or len(missing) == 0:
            return np.zeros(0, np.int64)
        order = np.argsort(-self._tracks.missed[missing], kind="stable")
        goes = np.zeros(self.live, bool)
        goes[missing[order[:over]]] = True
        dropped = self._told(self._tracks.pick(goes))
        self._tracks = self._tracks.pick(~goes)
        return dropped
