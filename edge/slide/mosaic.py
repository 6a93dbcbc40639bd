"""Where on the slide each frame lies: a mosaic of key frames.

A key frame is a thumbnail whose position on the slide is known. Each frame is
registered against the key frame that it overlaps most, not against the frame before it:
so errors do not add up along the way. A frame that overlaps no key frame well enough
becomes one itself.

Where the stage moved further than one overlap, the position is lost. Then all key
frames are searched, by picture and by the pattern of known cells. If none fits for
certain, a new patch begins: a set of positions with an origin of its own. Two patches
are joined as soon as one frame lies on both.

This is simultaneous localisation and mapping (SLAM) with key frames, for pure
translations. When a path returns to a place known before, the difference between the
two positions is the error of the path; correcting it is called closing the loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.slide.registration import (
    MIN_OVERLAP,
    PreparedThumbnail,
    Shift,
    prepare_thumbnail,
    register,
    significance,
)
from edge.stages.thumbnail import Thumbnail, shrink

MAX_KEY_FRAMES = 600  # of more, the one unseen for longest is dropped, not its cells
_COARSE_PX = 40  # longest side of the thumbnails by which all key frames are ranked
_BEST_RANKED = 4  # key frames that are then registered at full size
_MIN_COVERAGE = 0.6  # a frame that overlaps every key frame less becomes one
_CACHED_KEY_FRAMES = 12  # whose transforms are kept
_SAME_POSITION_PX = 3.0  # positions of a frame on one patch that differ less are equal


@dataclass(frozen=True, slots=True)
class MosaicPosition:
    """Where the upper left corner of a frame lies, in thumbnail pixels of a patch."""

    patch: int
    x_px: float
    y_px: float

    def moved(self, x_px: float, y_px: float) -> MosaicPosition:
        """Return the position so much further right and down."""
        return MosaicPosition(self.patch, self.x_px + x_px, self.y_px + y_px)


@dataclass(frozen=True, slots=True)
class PatchJoin:
    """Patch `patch` becomes part of `into`; its positions move by (`x_px`, `y_px`)."""

    patch: int
    into: int
    x_px: float
    y_px: float


@dataclass(frozen=True, slots=True)
class Placement:
    """The position of a frame, and what finding it showed about earlier positions.

    `correlation` with the picture that it was registered against, 0 on a new patch.
    `joins` are patches that proved to be one. `loop_error` (x, y) in px is what must be
    added to the positions of the path since it left known ground; None where no loop
    was closed.
    """

    position: MosaicPosition
    correlation: float
    joins: tuple[PatchJoin, ...] = ()
    loop_error: tuple[float, float] | None = None


ProposePositions = Callable[[], Iterable[MosaicPosition]]


@dataclass(slots=True, eq=False)
class _KeyFrame:
    """A thumbnail with its position; `last_seen` is the frame that overlapped it last.

    `coarse` is the same picture, shrunk to `_COARSE_PX` and prepared.
    """

    number: int
    position: MosaicPosition
    thumbnail: Thumbnail
    coarse: PreparedThumbnail
    last_seen: int


class Mosaic:
    """Finds the position of each frame on a growing map. Used from one thread.

    Invariant: all positions with one patch number share one origin.
    """

    def __init__(self) -> None:
        self._key_frames: list[_KeyFrame] = []
        self._cache: OrderedDict[int, PreparedThumbnail] = OrderedDict()
        self._last: tuple[PreparedThumbnail, MosaicPosition] | None = None
        self._frames = 0
        self._next_patch = self._next_key_frame = 0
        self._frames_on_patch = 0

    @property
    def patches(self) -> int:
        """How many patches are not joined to each other."""
        return len({key.position.patch for key in self._key_frames})

    @property
    def key_frames(self) -> list[tuple[MosaicPosition, Thumbnail]]:
        """The positions that are remembered, with their pictures (h, w) uint8."""
        return [(key.position, key.thumbnail) for key in self._key_frames]

    def place_frame(
        self, thumbnail: Thumbnail, propose: ProposePositions = tuple
    ) -> Placement:
        """Find the position of the next frame.

        Parameters
        ----------
        thumbnail
            (h, w) uint8. A frame of another size than the ones before begins a patch.
        propose
            Called when the position is lost or new ground is reached. Gives positions
            where the pattern of the frame's cells says that it may lie.
        """
        self._frames += 1
        prepared = prepare_thumbnail(thumbnail)
        placement = self._place_near_last(prepared)
        is_search_due = self._is_search_due()
        if placement is None:
            matches = self._search(prepared, thumbnail, propose, None)
            placement = self._relocate(matches, thumbnail)
        elif self._coverage(placement.position) < _MIN_COVERAGE:
            placement = self._extend_map(placement, prepared, thumbnail, propose)
        elif is_search_due:
            matches = self._search(prepared, thumbnail, propose, placement.position)
            placement = self._reconcile(placement, matches)
        self._last = (prepared, placement.position)
        return placement

    def _is_search_due(self) -> bool:
        """Whether to look for other patches: at the 2nd, 4th, 8th ... frame of a patch.

        A patch that can be joined is most often joined soon after it began. The
        doubling intervals keep the cost per frame bounded where it cannot.
        """
        self._frames_on_patch += 1
        is_power_of_two = self._frames_on_patch & (self._frames_on_patch - 1) == 0
        return self.patches > 1 and is_power_of_two

    def _place_near_last(self, prepared: PreparedThumbnail) -> Placement | None:
        """Place a frame by what lies around the last one; None where nothing fits."""
        if self._last is None:
            return None
        last, position = self._last
        # Key frames come first: the error against one is that of a single registration.
        # The last frame is used only where they fail, since the frame would inherit its
        # error, and errors would add up along the way.
        for key in self._nearest(position, 2):
            shift = register(self._prepared(key), prepared)
            if shift is not None:
                key.last_seen = self._frames
                return _placed(key.position, shift)
        shift = register(last, prepared)
        return None if shift is None else _placed(position, shift)

    def _nearest(self, position: MosaicPosition, count: int) -> list[_KeyFrame]:
        """Return key frames that a frame at `position` overlaps, best first."""
        overlaps = self._overlaps(position)
        best = np.argsort(-overlaps, kind="stable")[:count]
        return [self._key_frames[n] for n in best if overlaps[n] > MIN_OVERLAP]

    def _overlaps(self, position: MosaicPosition) -> NDArray[np.float64]:
        """Return the share (K,) of a frame at `position` that each key frame shows.

        With frames of one size (w, h) that are (dx, dy) apart, the share is
        max(0, 1 - |dx| / w) * max(0, 1 - |dy| / h); in another patch it is 0.
        """
        if not self._key_frames:
            return np.zeros(0)
        height, width = self._key_frames[0].thumbnail.shape
        positions = [key.position for key in self._key_frames]
        table = np.array([(p.patch, p.x_px, p.y_px) for p in positions])
        across = 1 - np.abs(table[:, 1] - position.x_px) / width
        down = 1 - np.abs(table[:, 2] - position.y_px) / height
        shared = np.clip(across, 0, None) * np.clip(down, 0, None)
        return np.where(table[:, 0] == position.patch, shared, 0.0)

    def _coverage(self, position: MosaicPosition) -> float:
        """Return the largest overlap of a frame at `position` with a key frame."""
        return float(self._overlaps(position).max(initial=0.0))

    def _extend_map(
        self,
        placement: Placement,
        prepared: PreparedThumbnail,
        thumbnail: Thumbnail,
        propose: ProposePositions,
    ) -> Placement:
        """Add a key frame of new ground, after a search whether it is new."""
        # Without the search a path that returns with an error would add a second copy
        # of known ground beside the first, and its cells would be counted twice.
        matches = self._search(prepared, thumbnail, propose, placement.position)
        placement = self._reconcile(placement, matches)
        if self._coverage(placement.position) < _MIN_COVERAGE:
            self._add_key_frame(placement.position, thumbnail)
        return placement

    def _search(
        self,
        prepared: PreparedThumbnail,
        thumbnail: Thumbnail,
        propose: ProposePositions,
        expected: MosaicPosition | None,
    ) -> list[tuple[MosaicPosition, float]]:
        """Search all key frames; return position and correlation, best patch first.

        There is at most one match per patch. Key frames that a frame at the `expected`
        position overlaps anyway are left out.
        """
        # Key frames around the expected position could only confirm it. What is wanted
        # is a match elsewhere: in another patch, or across a loop.
        coarse = prepare_thumbnail(shrink(thumbnail, _COARSE_PX))
        keys = self._key_frames
        if expected is not None:
            overlaps = self._overlaps(expected)
            keys = [
                key for key, shared in zip(keys, overlaps, strict=True) if not shared
            ]
        # Ranking by coarse pictures costs about a sixteenth of a registration at full
        # size. A wrong candidate does no harm: `register` decides at full size.
        scores = [significance(key.coarse, coarse) for key in keys]
        ranked = [keys[n] for n in np.argsort(scores)[::-1][:_BEST_RANKED]]
        ranked += [key for at in propose() for key in self._nearest(at, 1)]
        candidates = {key.number: key for key in ranked if key in keys}
        return self._register_all(prepared, candidates.values())

    def _register_all(
        self, prepared: PreparedThumbnail, candidates: Iterable[_KeyFrame]
    ) -> list[tuple[MosaicPosition, float]]:
        """Register a frame against candidates; keep the best match of each patch.

        Matches are weighted by correlation * sqrt(overlap), which is proportional to
        their significance.
        """
        best: dict[int, tuple[MosaicPosition, float, float]] = {}
        for key in candidates:
            shift = register(self._prepared(key), prepared)
            if shift is None:
                continue
            weight = shift.correlation * shift.overlap**0.5
            if weight > best.get(key.position.patch, (None, 0.0, 0.0))[2]:
                position = key.position.moved(shift.x_px, shift.y_px)
                best[key.position.patch] = (position, shift.correlation, weight)
                key.last_seen = self._frames
        matches = sorted(best.values(), key=lambda match: -match[2])
        return [(position, correlation) for position, correlation, _ in matches]

    def _relocate(
        self, matches: list[tuple[MosaicPosition, float]], thumbnail: Thumbnail
    ) -> Placement:
        """Go on at the best match of a lost frame, or begin a patch."""
        if not matches:
            position = MosaicPosition(self._next_patch, 0.0, 0.0)
            self._next_patch += 1
            self._frames_on_patch = 0
            self._add_key_frame(position, thumbnail)
            return Placement(position, 0.0)
        placement = self._reconcile(Placement(*matches[0]), matches[1:])
        if self._coverage(placement.position) < _MIN_COVERAGE:
            self._add_key_frame(placement.position, thumbnail)
        return placement

    def _reconcile(
        self, placement: Placement, matches: list[tuple[MosaicPosition, float]]
    ) -> Placement:
        """Close a loop, and join patches on which one and the same frame lies."""
        # In one patch the match is right and the position is wrong: the position came
        # along a path of many registrations whose errors added up, the key frame that
        # was found again did not move. The caller moves the cells of the path.
        position, loop_error, joins = placement.position, None, []
        for match, _ in matches:
            if match.patch == position.patch:
                error = (match.x_px - position.x_px, match.y_px - position.y_px)
                if np.hypot(*error) > _SAME_POSITION_PX:
                    loop_error, position = error, match
        # Two patches have origins of their own. One frame that lies on both gives the
        # difference of the origins, and the younger patch takes that of the older.
        for match, _ in matches:
            if match.patch != position.patch:
                older, newer = sorted((position, match), key=lambda p: p.patch)
                x_px, y_px = older.x_px - newer.x_px, older.y_px - newer.y_px
                joins.append(PatchJoin(newer.patch, older.patch, x_px, y_px))
                self._join(joins[-1])
                position = older
        return Placement(position, placement.correlation, tuple(joins), loop_error)

    def _join(self, join: PatchJoin) -> None:
        """Move the key frames of a patch into another one."""
        for key in self._key_frames:
            if key.position.patch == join.patch:
                moved = key.position.moved(join.x_px, join.y_px)
                key.position = MosaicPosition(join.into, moved.x_px, moved.y_px)

    def _add_key_frame(self, position: MosaicPosition, thumbnail: Thumbnail) -> None:
        """Remember a position; of too many, drop the one unseen for longest."""
        coarse = prepare_thumbnail(shrink(thumbnail, _COARSE_PX))
        self._key_frames.append(
            _KeyFrame(self._next_key_frame, position, thumbnail, coarse, self._frames)
        )
        self._next_key_frame += 1
        if len(self._key_frames) > MAX_KEY_FRAMES:
            oldest = min(self._key_frames, key=lambda key: key.last_seen)
            self._key_frames.remove(oldest)
            self._cache.pop(oldest.number, None)

    def _prepared(self, key: _KeyFrame) -> PreparedThumbnail:
        """Return a key frame at full size, prepared; the ones used last are cached."""
        # Only some are cached: prepared copies of all 600 would take about 200 MB. A
        # path stays near a few key frames, so most frames find theirs in the cache.
        prepared = self._cache.pop(key.number, None) or prepare_thumbnail(key.thumbnail)
        self._cache[key.number] = prepared
        if len(self._cache) > _CACHED_KEY_FRAMES:
            self._cache.popitem(last=False)
        return prepared


def _placed(base: MosaicPosition, shift: Shift) -> Placement:
    """Return the placement of a frame that lies at `shift` from a known position."""
    return Placement(base.moved(shift.x_px, shift.y_px), shift.correlation)
