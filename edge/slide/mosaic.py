"""Where on the slide each frame lies: a mosaic of pictures of the places visited.

A frame is laid on the picture of a place (a key) that it overlaps most, so errors do
not add up along the way. Where it overlaps none well enough it becomes a key itself.
When the hand was faster than the overlap, all keys and the constellation of known cells
are searched; if nothing is certain, a patch of its own begins, which is joined to
another as soon as one frame lies on both.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.slide.registration import (
    LEAST_OVERLAP,
    PreparedThumbnail,
    Shift,
    prepare_thumbnail,
    register,
    significance,
)
from edge.stages.thumbnail import Thumbnail, shrink

MOST_KEYS = 600  # places; the one longest unvisited is forgotten, its cells are not
_COARSE_PX = 40  # longest side of the pictures by which all keys are searched
_NOMINATED = 4  # keys that are looked at closely, by picture and by constellation
_WELL_COVERED = 0.6  # a frame that overlaps a key less becomes a key
_PREPARED = 12  # keys whose transforms are at hand
_SAME_PX = 3.0  # two ways to lay a frame on one patch differ by less


@dataclass(frozen=True, slots=True)
class MosaicPosition:
    """Where the upper left corner of a view lies, in view pixels of a patch."""

    patch: int
    x_px: float
    y_px: float

    def moved(self, x_px: float, y_px: float) -> MosaicPosition:
        """Return the place so much further right and down."""
        return MosaicPosition(self.patch, self.x_px + x_px, self.y_px + y_px)


@dataclass(frozen=True, slots=True)
class PatchJoin:
    """Patch `patch` is part of `into`: its places move by (`x_px`, `y_px`)."""

    patch: int
    into: int
    x_px: float
    y_px: float


@dataclass(frozen=True, slots=True)
class Placement:
    """A frame's place, and what finding it told of others.

    `correlation` with the picture it was laid on, 0 on a new patch. `joins` are patches
    that turned out to be one; `snap` is how far off the way was when it came back to a
    place known before.
    """

    place: MosaicPosition
    correlation: float
    joins: tuple[PatchJoin, ...] = ()
    snap: tuple[float, float] | None = None


Nominate = Callable[[], Iterable[MosaicPosition]]


@dataclass(slots=True, eq=False)
class _KeyFrame:
    """A place with its picture; `met` is the frame that saw it last."""

    number: int
    place: MosaicPosition
    thumbnail: Thumbnail
    coarse: PreparedThumbnail
    met: int


class Mosaic:
    """Lays views of one size on a growing map. Used from one thread."""

    def __init__(self) -> None:
        self._keys: list[_KeyFrame] = []
        self._ready: OrderedDict[int, PreparedThumbnail] = OrderedDict()
        self._last: tuple[PreparedThumbnail, MosaicPosition] | None = None
        self._frames = self._patches = self._made = self._since_new = 0

    @property
    def patches(self) -> int:
        """How many patches are not joined to each other."""
        return len({key.place.patch for key in self._keys})

    @property
    def keys(self) -> list[tuple[MosaicPosition, Thumbnail]]:
        """The places remembered and their pictures."""
        return [(key.place, key.thumbnail) for key in self._keys]

    def lay(self, thumbnail: Thumbnail, nominate: Nominate = tuple) -> Placement:
        """Find the place of a view.

        Parameters
        ----------
        thumbnail
            (h, w) uint8; of one size as long as the mosaic lives.
        nominate
            Asked when the way is lost or new ground is reached: places where the
            constellation of its cells says that the view may lie.
        """
        self._frames += 1
        seen = prepare_thumbnail(thumbnail)
        found = self._follow(seen)
        is_due = self._is_young()
        if found is not None:
            placement = found
            if self._covered(found.place) < _WELL_COVERED:
                placement, is_due = (
                    self._settle(found, seen, thumbnail, nominate),
                    False,
                )
            if is_due:
                candidates = self._recognise(seen, thumbnail, nominate, found.place)
                placement = self._close(found, candidates)
        else:
            candidates = self._recognise(seen, thumbnail, nominate, None)
            placement = self._land(candidates, thumbnail)
        self._last = (seen, placement.place)
        return placement

    def _is_young(self) -> bool:
        """Whether a patch asks again where it is: at its 2nd, 4th, 8th … frame."""
        self._since_new += 1
        return self.patches > 1 and self._since_new & (self._since_new - 1) == 0

    def _follow(self, seen: PreparedThumbnail) -> Placement | None:
        """Lay a view near the last one."""
        if self._last is None:
            return None
        before, place = self._last
        for key in self._nearest(place, 2):
            shift = register(self._prepared(key), seen)
            if shift is not None:
                key.met = self._frames
                return _landing(key.place, shift)
        shift = register(before, seen)
        return None if shift is None else _landing(place, shift)

    def _nearest(self, place: MosaicPosition, count: int) -> list[_KeyFrame]:
        """Keys that a view at `place` overlaps most, best first."""
        overlaps = self._overlaps(place)
        best = np.argsort(-overlaps, kind="stable")[:count]
        return [self._keys[n] for n in best if overlaps[n] > LEAST_OVERLAP]

    def _overlaps(self, place: MosaicPosition) -> NDArray[np.float64]:
        """Share that a view at `place` has in common with each key."""
        if not self._keys:
            return np.zeros(0)
        height, width = self._keys[0].thumbnail.shape
        at = np.array([(k.place.patch, k.place.x_px, k.place.y_px) for k in self._keys])
        across = 1 - np.abs(at[:, 1] - place.x_px) / width
        down = 1 - np.abs(at[:, 2] - place.y_px) / height
        shared = np.clip(across, 0, None) * np.clip(down, 0, None)
        return np.where(at[:, 0] == place.patch, shared, 0.0)

    def _covered(self, place: MosaicPosition) -> float:
        return float(self._overlaps(place).max(initial=0.0))

    def _settle(
        self,
        found: Placement,
        seen: PreparedThumbnail,
        thumbnail: Thumbnail,
        nominate: Nominate,
    ) -> Placement:
        """Keep a thumbnail of new ground, after asking whether it is new."""
        candidates = self._recognise(seen, thumbnail, nominate, found.place)
        placement = self._close(found, candidates)
        if self._covered(placement.place) < _WELL_COVERED:
            self._keep(placement.place, thumbnail)
        return placement

    def _recognise(
        self,
        seen: PreparedThumbnail,
        thumbnail: Thumbnail,
        nominate: Nominate,
        known: MosaicPosition | None,
    ) -> list[tuple[MosaicPosition, float]]:
        """Return where a thumbnail lies for certain, the best of each patch first.

        Keys that a thumbnail at the `known` place overlaps anyway are not asked.
        """
        coarse = prepare_thumbnail(shrink(thumbnail, _COARSE_PX))
        keys = self._keys
        if known is not None:
            overlaps = self._overlaps(known)
            keys = [
                key for key, shared in zip(keys, overlaps, strict=True) if not shared
            ]
        scores = [significance(key.coarse, coarse) for key in keys]
        likely = [keys[n] for n in np.argsort(scores)[::-1][:_NOMINATED]]
        likely += [key for place in nominate() for key in self._nearest(place, 1)]
        candidates = {key.number: key for key in likely if key in keys}
        found: dict[int, tuple[MosaicPosition, float, float]] = {}
        for key in candidates.values():
            shift = register(self._prepared(key), seen)
            if shift is None:
                continue
            weight = shift.correlation * shift.overlap**0.5
            if weight > found.get(key.place.patch, (None, 0.0, 0.0))[2]:
                place = key.place.moved(shift.x_px, shift.y_px)
                found[key.place.patch] = (place, shift.correlation, weight)
                key.met = self._frames
        ranked = sorted(found.values(), key=lambda f: -f[2])
        return [(place, correlation) for place, correlation, _ in ranked]

    def _land(
        self, candidates: list[tuple[MosaicPosition, float]], thumbnail: Thumbnail
    ) -> Placement:
        """Go on at a place that was recognised, or begin a patch."""
        if not candidates:
            place = MosaicPosition(self._patches, 0.0, 0.0)
            self._patches += 1
            self._since_new = 0
            self._keep(place, thumbnail)
            return Placement(place, 0.0)
        placement = self._close(Placement(*candidates[0]), candidates[1:])
        if self._covered(placement.place) < _WELL_COVERED:
            self._keep(placement.place, thumbnail)
        return placement

    def _close(
        self, found: Placement, candidates: list[tuple[MosaicPosition, float]]
    ) -> Placement:
        """Join patches on which one view lies, and mend a way that came round."""
        place, snap, joins = found.place, None, []
        for other, _ in candidates:
            if other.patch == place.patch:
                off = (other.x_px - place.x_px, other.y_px - place.y_px)
                if np.hypot(*off) > _SAME_PX:
                    snap, place = off, other
        for other, _ in candidates:
            if other.patch != place.patch:
                older, newer = sorted((place, other), key=lambda p: p.patch)
                x_px, y_px = older.x_px - newer.x_px, older.y_px - newer.y_px
                joins.append(PatchJoin(newer.patch, older.patch, x_px, y_px))
                self._join(joins[-1])
                place = older
        return Placement(place, found.correlation, tuple(joins), snap)

    def _join(self, join: PatchJoin) -> None:
        for key in self._keys:
            if key.place.patch == join.patch:
                moved = key.place.moved(join.x_px, join.y_px)
                key.place = MosaicPosition(join.into, moved.x_px, moved.y_px)

    def _keep(self, place: MosaicPosition, thumbnail: Thumbnail) -> None:
        """Remember a place; of too many, forget the one longest unvisited."""
        coarse = prepare_thumbnail(shrink(thumbnail, _COARSE_PX))
        self._keys.append(_KeyFrame(self._made, place, thumbnail, coarse, self._frames))
        self._made += 1
        if len(self._keys) > MOST_KEYS:
            oldest = min(self._keys, key=lambda key: key.met)
            self._keys.remove(oldest)
            self._ready.pop(oldest.number, None)

    def _prepared(self, key: _KeyFrame) -> PreparedThumbnail:
        """Return the transform of a key; the ones used last are at hand."""
        ready = self._ready.pop(key.number, None) or prepare_thumbnail(key.thumbnail)
        self._ready[key.number] = ready
        if len(self._ready) > _PREPARED:
            self._ready.popitem(last=False)
        return ready


def _landing(base: MosaicPosition, shift: Shift) -> Placement:
    return Placement(base.moved(shift.x_px, shift.y_px), shift.correlation)
