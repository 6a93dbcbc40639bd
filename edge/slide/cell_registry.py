"""Every cell of the slide once: what is known of it from all its sights.

A cell is entered when it is first seen whole, with its centre at least `margin_px`
inside the frame: by that rule large cells are not missed more often than small ones. It
counts as long as it was found in at least half of the frames that should have shown it,
so that a chance find or a cell read as two does not stay. Its class is the one of the
highest summed log-probability over its sights; where their geometric mean leaves every
class too unlikely, it is unidentified.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.slide.mosaic import MosaicPosition, PatchJoin
from edge.slide.point_matching import likely_shifts, pair
from edge.taxonomy import NOT_A_CELL, UNIDENTIFIED

MAX_REGISTERED_CELLS = (
    100_000  # rows; beyond it those longest unseen are settled as they are
)
_SETTLED_AT_ONCE = 10_000
_FOUND = 0.5  # share of the looks that must have found a cell
_DOUBT = 1e-3  # a probability is never held lower: one sight decides nothing alone
_EDGE_PX = 1.5  # so near the margin a cell may fall on either side of it
_ENOUGH_PAIRS = 5
_STRIP = 512  # known cells that are matched at once when patches join


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """What one frame shows, in view pixels.

    `centres` (N, 2), `widths` (N,), `log_likely` (N, K) natural logarithms of the
    probabilities of the classes; only whole cells.
    """

    centres: NDArray[np.float64]
    widths: NDArray[np.float64]
    log_likely: NDArray[np.float64]


class CellRegistry:
    """The cells of a slide. Used from one thread."""

    def __init__(self, labels: tuple[str, ...], abstain_below: float) -> None:
        self.labels, self._abstain_below = labels, abstain_below
        self._cells = np.zeros(0, _row_of(len(labels)))
        self._used = 0
        self._frame = 0
        self._settled: Counter[str] = Counter()

    @property
    def cells(self) -> NDArray[np.void]:
        """The rows: a view that the next frame changes."""
        return self._cells[: self._used]

    def nominate(self, detections: Detections) -> list[MosaicPosition]:
        """Places where the constellation of these cells was seen before."""
        cell_px = float(np.median(detections.widths)) if len(detections.widths) else 1.0
        places = []
        for patch in np.unique(self.cells["patch"]).tolist():
            candidates = self.cells["at"][self.cells["patch"] == patch]
            for x_px, y_px in likely_shifts(detections.centres, candidates, cell_px):
                places.append(MosaicPosition(patch, x_px, y_px))
        return places

    def look(
        self,
        place: MosaicPosition,
        size: tuple[int, int],
        margin_px: float,
        detections: Detections,
    ) -> None:
        """Take in what a frame shows.

        Parameters
        ----------
        place
            Of the frame's upper left corner.
        size
            Width and height of the view.
        margin_px
            How far inside the frame the centre of a cell must lie.
        detections
            All whole cells of the frame.
        """
        self._frame += 1
        inside = _within(detections.centres, size, margin_px)
        here = np.flatnonzero(self.cells["patch"] == place.patch)
        corner = np.array([place.x_px, place.y_px])
        near = _within(self.cells["at"][here] - corner, size, margin_px - 4 * _EDGE_PX)
        here = here[near]
        candidates = self.cells[here]
        seen, found = pair(
            detections.centres + corner,
            candidates["at"],
            detections.widths,
            candidates["width"],
        )
        if len(seen) >= _ENOUGH_PAIRS:  # the stars correct the sextant
            off = np.median(
                candidates["at"][found] - detections.centres[seen] - corner, axis=0
            )
            corner = corner + off
            seen, found = pair(
                detections.centres + corner,
                candidates["at"],
                detections.widths,
                candidates["width"],
            )
        expected = _within(candidates["at"] - corner, size, margin_px + _EDGE_PX)
        expected[found] = False  # they count as looked at below
        self.cells["looks"][here[expected]] += 1
        self._see(here[found], detections, seen, corner)
        is_new = inside.copy()
        is_new[seen] = False
        self._enter(place.patch, detections, np.flatnonzero(is_new), corner)
        if self._used > MAX_REGISTERED_CELLS:
            self._settle()

    def join(self, join: PatchJoin) -> None:
        """Move a patch into another, where cells of both may be the same."""
        moved = self.cells["patch"] == join.patch
        self.cells["at"][moved] += (join.x_px, join.y_px)
        into = self.cells["patch"] == join.into
        self._merge(np.flatnonzero(moved), np.flatnonzero(into))
        self.cells["patch"][self.cells["patch"] == join.patch] = join.into

    def snap(
        self, place: MosaicPosition, size: tuple[int, int], off: tuple[float, float]
    ) -> None:
        """Mend what was counted twice when a way came round with an error `off`.

        `place` is where the frame lies by what was known before. Cells of the way
        there were seen last after those known before: the moment between is the one
        that the most pairs of cells tell.
        """
        here = np.flatnonzero(self.cells["patch"] == place.patch)
        corner = np.array([place.x_px, place.y_px])
        cells, at = self.cells[here], self.cells["at"][here] - corner
        astray = np.flatnonzero(_within(at + off, size, 0.0))
        settled = np.flatnonzero(_within(at, size, 0.0))
        new, old = pair(
            at[astray] + off,
            at[settled],
            cells["width"][astray],
            cells["width"][settled],
        )
        between = _moment_between(
            cells["seen_at"][settled[old]], cells["seen_at"][astray[new]]
        )
        is_new = cells["seen_at"] > between
        recent, before = here[astray[is_new[astray]]], here[settled[~is_new[settled]]]
        self.cells["at"][recent] += off
        self._merge(recent, before)

    def counts(self) -> Counter[str]:
        """Cells per label, also unidentified ones, but not what is no cell."""
        names = (*self.labels, UNIDENTIFIED)
        labels = self.label_indices()
        tally = np.bincount(labels[labels >= 0], minlength=len(names)).tolist()
        total = Counter(dict(zip(names, tally, strict=True))) + self._settled
        del total[NOT_A_CELL]
        return total

    def label_indices(self) -> NDArray[np.intp]:
        """Label of each cell: K if it is unidentified, -1 if it does not count."""
        cells = self.cells
        mean = cells["log_likely"] / np.maximum(cells["sights"], 1)[:, None]
        likely = np.exp(mean - mean.max(axis=1, keepdims=True, initial=-np.inf))
        likely /= likely.sum(axis=1, keepdims=True)
        labels = likely.argmax(axis=1)
        labels[likely.max(axis=1, initial=0.0) < self._abstain_below] = len(self.labels)
        labels[cells["sights"] < _FOUND * cells["looks"]] = -1
        return np.asarray(labels, np.intp)

    def _see(
        self,
        rows: NDArray[np.intp],
        detections: Detections,
        seen: NDArray[np.intp],
        corner: NDArray[np.float64],
    ) -> None:
        """Add a sight to known cells; where a cell lies is the mean of its sights."""
        cells = self.cells
        cells["looks"][rows] += 1
        cells["sights"][rows] += 1
        share = 1 / cells["sights"][rows]
        at = detections.centres[seen] + corner
        cells["at"][rows] += share[:, None] * (at - cells["at"][rows])
        cells["width"][rows] += share * (detections.widths[seen] - cells["width"][rows])
        cells["log_likely"][rows] += detections.log_likely[seen]
        cells["seen_at"][rows] = self._frame

    def _enter(
        self,
        patch: int,
        detections: Detections,
        new: NDArray[np.intp],
        corner: NDArray[np.float64],
    ) -> None:
        end = self._used + len(new)
        if end > len(self._cells):
            more = np.zeros(max(1024, 2 * end), self._cells.dtype)
            more[: self._used] = self.cells
            self._cells = more
        rows = self._cells[self._used : end]
        rows["patch"], rows["at"] = patch, detections.centres[new] + corner
        rows["width"], rows["log_likely"] = (
            detections.widths[new],
            detections.log_likely[new],
        )
        rows["sights"] = rows["looks"] = 1
        rows["seen_at"] = self._frame
        self._used = end

    def _merge(self, moved: NDArray[np.intp], into: NDArray[np.intp]) -> None:
        """Add what is known of cells to those they prove to be; drop the former."""
        cells = self.cells
        if len(into) == 0:
            return
        along = int(np.ptp(cells["at"][into], axis=0).argmax())  # strips across the way
        order = into[np.argsort(cells["at"][into, along])]
        gone: list[int] = []
        for start in range(0, len(order), _STRIP):
            strip = order[start : start + _STRIP]
            low, high = cells["at"][strip[[0, -1]], along]
            reach = float(cells["width"][strip].max())
            at = cells["at"][moved, along]
            near = moved[(at > low - reach) & (at < high + reach)]
            near = near[~np.isin(near, gone)]
            left, right = pair(
                cells["at"][near],
                cells["at"][strip],
                cells["width"][near],
                cells["width"][strip],
            )
            for field in ("log_likely", "sights", "looks"):
                cells[field][strip[right]] += cells[field][near[left]]
            last = np.maximum(
                cells["seen_at"][strip[right]], cells["seen_at"][near[left]]
            )
            cells["seen_at"][strip[right]] = last
            gone.extend(near[left].tolist())
        self._drop(np.array(gone, np.intp))

    def _drop(self, rows: NDArray[np.intp]) -> None:
        kept = np.delete(self.cells, rows)
        self._cells[: len(kept)] = kept
        self._used = len(kept)

    def _settle(self) -> None:
        """Keep the count of the cells longest unseen, and forget where they lie."""
        oldest = np.argsort(self.cells["seen_at"], kind="stable")[:_SETTLED_AT_ONCE]
        names = (*self.labels, UNIDENTIFIED)
        labels = self.label_indices()[oldest]
        self._settled.update(names[label] for label in labels.tolist() if label >= 0)
        self._drop(oldest)


def detections_of(
    boxes: NDArray[np.float64],
    probabilities: NDArray[np.float64],
    frame_px: tuple[int, int],
    view_px: tuple[int, int],
) -> Detections:
    """Bring whole cells from the pixels of a frame to those of its view.

    Parameters
    ----------
    boxes
        (N, 4) x0, y0, x1, y1 in pixels of the frame.
    probabilities
        (N, K).
    frame_px, view_px
        Width and height.
    """
    whole = (boxes[:, :2] > 0).all(axis=1) & (boxes[:, 2:] < frame_px).all(axis=1)
    boxes = boxes[whole]
    scale = np.array(view_px) / frame_px
    size = (boxes[:, 2:] - boxes[:, :2]) * scale
    return Detections(
        centres=(boxes[:, :2] + boxes[:, 2:]) / 2 * scale,
        widths=np.sqrt(np.prod(size, axis=1)),
        log_likely=np.log(np.maximum(probabilities[whole], _DOUBT)),
    )


def _moment_between(before: NDArray[np.int64], after: NDArray[np.int64]) -> int:
    """Return the frame that divides most pairs: the one seen by then, the other since.

    Without any pair that is the last frame of all: nothing was seen since.
    """
    if len(before) == 0:
        return int(np.iinfo(np.int64).max)
    divided = (before[None] <= before[:, None]) & (before[:, None] < after[None])
    return int(before[divided.sum(axis=1).argmax()])


def _row_of(classes: int) -> np.dtype[np.void]:
    return np.dtype(
        [
            ("patch", np.int32),
            ("at", np.float64, (2,)),
            ("width", np.float64),
            ("log_likely", np.float64, (classes,)),
            ("sights", np.int32),
            ("looks", np.int32),
            ("seen_at", np.int64),
        ]
    )


def _within(
    at: NDArray[np.float64], size: tuple[int, int], margin_px: float
) -> NDArray[np.bool_]:
    return np.asarray(
        ((at >= margin_px) & (at < np.array(size) - margin_px)).all(axis=1)
    )
