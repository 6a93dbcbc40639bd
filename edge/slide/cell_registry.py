"""Every cell of the slide once: what is known of it from all frames that showed it.

Which cells are entered: a cell enters the registry when its centre lies at least
`margin_px` inside a frame for the first time. This is the associated-point rule of
stereology (Miles, J. Microscopy 113:257, 1978): whether a cell counts depends on its
centre alone, so large cells are not missed more often than small ones.

Which cells count: a cell counts as long as it was found in at least half of the frames
that should have shown it. A false find, or one cell that was read as two, is soon
expected in vain and stops counting.

Which class they have: the class with the highest sum of log-probabilities over all
finds. Where the geometric mean of the probabilities leaves every class too unlikely,
the cell is unidentified.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.slide.mosaic import MosaicPosition, PatchJoin
from edge.slide.point_matching import likely_shifts, pair
from edge.taxonomy import NOT_A_CELL, UNIDENTIFIED

# Rows in memory. Beyond it the cells that were unseen for longest are finalised: their
# labels stay in the counts, their positions are dropped.
MAX_REGISTERED_CELLS = 100_000
_FINALISED_AT_ONCE = 10_000
_MIN_FOUND_SHARE = 0.5  # of the frames that should have shown a cell
_MIN_PROBABILITY = 1e-3  # lower ones are raised to it: no single find decides alone
# Centres are known this well. A known cell this close to the margin may fall on either
# side of it, so it is neither expected nor missed.
_MARGIN_TOLERANCE_PX = 1.5
_MIN_PAIRS = 5  # that correct the position of a frame
_BAND_CELLS = 512  # known cells that are matched at once when patches join


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The whole cells of one frame, in thumbnail pixels from its upper left corner.

    `centres` (N, 2) x and y; `widths` (N,); `log_likely` (N, K) natural logarithms of
    the probabilities of the K classes. All float64.
    """

    centres: NDArray[np.float64]
    widths: NDArray[np.float64]
    log_likely: NDArray[np.float64]


class CellRegistry:
    """The cells of a slide. Used from one thread.

    Invariant: no two rows of one patch are the same cell, as `pair` judges it, as far
    as the frames have shown.
    """

    def __init__(self, labels: tuple[str, ...], abstain_below: float) -> None:
        self.labels, self._abstain_below = labels, abstain_below
        self._cells = np.zeros(0, _row_type(len(labels)))
        self._used = 0
        self._frame = 0
        self._finalised: Counter[str] = Counter()

    @property
    def cells(self) -> NDArray[np.void]:
        """The rows (M,), see `_row_type`. Not a copy: the next frame changes it."""
        return self._cells[: self._used]

    def propose_positions(self, detections: Detections) -> list[MosaicPosition]:
        """Return positions of a frame that would bring its cells onto known ones."""
        cell_px = float(np.median(detections.widths)) if len(detections.widths) else 1.0
        positions = []
        for patch in np.unique(self.cells["patch"]).tolist():
            known = self.cells["centre"][self.cells["patch"] == patch]
            for x_px, y_px in likely_shifts(detections.centres, known, cell_px):
                positions.append(MosaicPosition(patch, x_px, y_px))
        return positions

    def add_frame(
        self,
        position: MosaicPosition,
        size: tuple[int, int],
        margin_px: float,
        detections: Detections,
    ) -> None:
        """Take in the cells of a frame: update known ones, enter new ones.

        Parameters
        ----------
        position
            Of the frame's upper left corner.
        size
            Width and height of the thumbnail.
        margin_px
            How far inside the frame the centre of a cell must lie to be entered.
        detections
            All whole cells of the frame, also those nearer to its border.
        """
        self._frame += 1
        corner = np.array([position.x_px, position.y_px])
        nearby = self._rows_near(position.patch, corner, size, margin_px)
        known = self.cells[nearby]
        corner, found, matched = _match(detections, known, corner)
        # A frame that should show a cell and does not is evidence against the cell.
        # Only cells clearly inside the margin are expected.
        expected = _is_within(
            known["centre"] - corner, size, margin_px + _MARGIN_TOLERANCE_PX
        )
        expected[matched] = False  # `_update` counts these
        self.cells["times_expected"][nearby[expected]] += 1
        self._update(nearby[matched], detections, found, corner)
        is_new = _is_within(detections.centres, size, margin_px)
        is_new[found] = False
        self._enter(position.patch, detections, np.flatnonzero(is_new), corner)
        if self._used > MAX_REGISTERED_CELLS:
            self._finalise_oldest()

    def join(self, join: PatchJoin) -> None:
        """Move a patch into another one, where cells of both may be the same."""
        moved = self.cells["patch"] == join.patch
        self.cells["centre"][moved] += (join.x_px, join.y_px)
        into = self.cells["patch"] == join.into
        self._merge(np.flatnonzero(moved), np.flatnonzero(into))
        self.cells["patch"][self.cells["patch"] == join.patch] = join.into

    def close_loop(
        self,
        position: MosaicPosition,
        size: tuple[int, int],
        error: tuple[float, float],
    ) -> None:
        """Merge what was counted twice when a path returned with an error.

        Parameters
        ----------
        position
            Of the frame, as the cells known before tell it.
        size
            Width and height of the thumbnail.
        error
            (x, y) px, what must be added to the positions of the path.

        Notes
        -----
        All cells share one patch, so the cells of the path must be told from those
        known before. Both were seen in this place, but the path came later: there is a
        frame number that separates the two finds of most cells (see `_dividing_frame`).
        """
        here = np.flatnonzero(self.cells["patch"] == position.patch)
        corner = np.array([position.x_px, position.y_px])
        cells, centres = self.cells[here], self.cells["centre"][here] - corner
        displaced = np.flatnonzero(_is_within(centres + error, size, 0.0))
        in_place = np.flatnonzero(_is_within(centres, size, 0.0))
        later, earlier = pair(
            centres[displaced] + error,
            centres[in_place],
            cells["width"][displaced],
            cells["width"][in_place],
        )
        divide = _dividing_frame(
            cells["last_seen"][in_place[earlier]], cells["last_seen"][displaced[later]]
        )
        is_later = cells["last_seen"] > divide
        of_path = here[displaced[is_later[displaced]]]
        known_before = here[in_place[~is_later[in_place]]]
        self.cells["centre"][of_path] += error
        self._merge(of_path, known_before)

    def counts(self) -> Counter[str]:
        """Cells per label, unidentified ones included, without what is no cell."""
        names = (*self.labels, UNIDENTIFIED)
        labels = self.label_indices()
        tally = np.bincount(labels[labels >= 0], minlength=len(names)).tolist()
        total = Counter(dict(zip(names, tally, strict=True))) + self._finalised
        del total[NOT_A_CELL]
        return total

    def label_indices(self) -> NDArray[np.intp]:
        """Return the label (M,) of each cell: K unidentified, -1 if it does not count.

        With p_i the probabilities of find i of a cell, its class k has the probability
        exp(mean_i(log p_i[k])) / sum over all classes: the normalised geometric mean.
        """
        # The mean, not the sum of logarithms: the product over many finds would become
        # certain of any class. It would hold for independent finds, but these show the
        # same cell in the same light, so more of them add little evidence.
        cells = self.cells
        mean = cells["log_likely"] / np.maximum(cells["times_found"], 1)[:, None]
        likely = np.exp(mean - mean.max(axis=1, keepdims=True, initial=-np.inf))
        likely /= likely.sum(axis=1, keepdims=True)
        labels = likely.argmax(axis=1)
        labels[likely.max(axis=1, initial=0.0) < self._abstain_below] = len(self.labels)
        labels[cells["times_found"] < _MIN_FOUND_SHARE * cells["times_expected"]] = -1
        return np.asarray(labels, np.intp)

    def _rows_near(
        self,
        patch: int,
        corner: NDArray[np.float64],
        size: tuple[int, int],
        margin_px: float,
    ) -> NDArray[np.intp]:
        """Return the rows of known cells that a frame at `corner` (2,) px may show."""
        here = np.flatnonzero(self.cells["patch"] == patch)
        reach_px = margin_px - 4 * _MARGIN_TOLERANCE_PX
        near = _is_within(self.cells["centre"][here] - corner, size, reach_px)
        return here[near]

    def _update(
        self,
        rows: NDArray[np.intp],
        detections: Detections,
        found: NDArray[np.intp],
        corner: NDArray[np.float64],
    ) -> None:
        """Add one find to each of the known cells `rows` (P,); `found` (P,) are they.

        Centre and width become means over all finds: m += (x - m) / n.
        """
        # Means, not the newest values: the error of a single box, and that of its
        # frame's position, average out. So known cells get better with every visit, and
        # so do the positions of frames that are corrected by them.
        cells = self.cells
        cells["times_expected"][rows] += 1
        cells["times_found"][rows] += 1
        weight = 1 / cells["times_found"][rows]
        centres = detections.centres[found] + corner
        cells["centre"][rows] += weight[:, None] * (centres - cells["centre"][rows])
        widths = detections.widths[found]
        cells["width"][rows] += weight * (widths - cells["width"][rows])
        cells["log_likely"][rows] += detections.log_likely[found]
        cells["last_seen"][rows] = self._frame

    def _enter(
        self,
        patch: int,
        detections: Detections,
        new: NDArray[np.intp],
        corner: NDArray[np.float64],
    ) -> None:
        """Append rows for the detections `new` (P,) of a frame at `corner` (2,) px."""
        end = self._used + len(new)
        if end > len(self._cells):  # doubled, so that growing costs little per cell
            more = np.zeros(max(1024, 2 * end), self._cells.dtype)
            more[: self._used] = self.cells
            self._cells = more
        rows = self._cells[self._used : end]
        rows["patch"], rows["centre"] = patch, detections.centres[new] + corner
        rows["width"] = detections.widths[new]
        rows["log_likely"] = detections.log_likely[new]
        rows["times_found"] = rows["times_expected"] = 1
        rows["last_seen"] = self._frame
        self._used = end

    def _merge(self, moved: NDArray[np.intp], into: NDArray[np.intp]) -> None:
        """Add finds of `moved` (A,) to the same cells of `into` (B,); drop `moved`."""
        # `pair` compares all with all: A * B distances, gigabytes for two long paths.
        # So the cells are sorted along the longer side of their area and taken in
        # bands; only cells within one width of a band are compared with it.
        cells = self.cells
        if len(into) == 0:
            return
        axis = int(np.ptp(cells["centre"][into], axis=0).argmax())
        order = into[np.argsort(cells["centre"][into, axis])]
        merged: list[int] = []
        for start in range(0, len(order), _BAND_CELLS):
            band = order[start : start + _BAND_CELLS]
            near = self._near_band(moved, band, axis)
            near = near[~np.isin(near, merged)]
            same, target = pair(
                cells["centre"][near],
                cells["centre"][band],
                cells["width"][near],
                cells["width"][band],
            )
            source, target = near[same], band[target]
            for field in ("log_likely", "times_found", "times_expected"):
                cells[field][target] += cells[field][source]
            last = np.maximum(cells["last_seen"][target], cells["last_seen"][source])
            cells["last_seen"][target] = last
            merged.extend(source.tolist())
        self._drop(np.array(merged, np.intp))

    def _near_band(
        self, moved: NDArray[np.intp], band: NDArray[np.intp], axis: int
    ) -> NDArray[np.intp]:
        """Return the rows of `moved` within a cell's width of `band`, along `axis`."""
        cells = self.cells
        low, high = cells["centre"][band[[0, -1]], axis]
        reach = float(cells["width"][band].max())
        along = cells["centre"][moved, axis]
        return np.asarray(moved[(along > low - reach) & (along < high + reach)])

    def _drop(self, rows: NDArray[np.intp]) -> None:
        """Remove rows; the order of the others stays."""
        kept = np.delete(self.cells, rows)
        self._cells[: len(kept)] = kept
        self._used = len(kept)

    def _finalise_oldest(self) -> None:
        """Keep the labels of the cells unseen for longest, and drop their positions."""
        oldest = np.argsort(self.cells["last_seen"], kind="stable")[:_FINALISED_AT_ONCE]
        names = (*self.labels, UNIDENTIFIED)
        labels = self.label_indices()[oldest]
        self._finalised.update(names[label] for label in labels.tolist() if label >= 0)
        self._drop(oldest)


def detections_of(
    boxes: NDArray[np.float64],
    probabilities: NDArray[np.float64],
    frame_px: tuple[int, int],
    thumbnail_px: tuple[int, int],
) -> Detections:
    """Bring whole cells from the pixels of a frame to those of its thumbnail.

    Parameters
    ----------
    boxes
        (N, 4) float64 x0, y0, x1, y1 in pixels of the frame. A box that touches the
        border is left out: the cell may go on beyond it.
    probabilities
        (N, K) float64 of the classes.
    frame_px, thumbnail_px
        Width and height.
    """
    whole = (boxes[:, :2] > 0).all(axis=1) & (boxes[:, 2:] < frame_px).all(axis=1)
    boxes = boxes[whole]
    scale = np.array(thumbnail_px) / frame_px
    size = (boxes[:, 2:] - boxes[:, :2]) * scale
    return Detections(
        centres=(boxes[:, :2] + boxes[:, 2:]) / 2 * scale,
        widths=np.sqrt(np.prod(size, axis=1)),
        log_likely=np.log(np.maximum(probabilities[whole], _MIN_PROBABILITY)),
    )


def _match(
    detections: Detections, known: NDArray[np.void], corner: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]:
    """Match a frame's cells with known ones, and correct the frame's position by them.

    `known` (M,) rows of the registry, `corner` (2,) px where the frame lies. Returns
    the corrected corner (2,), and two arrays (P,): detections, and the rows of `known`.
    """
    # Registration is good to a fraction of a thumbnail pixel, which is several pixels
    # of the frame. The median offset of many cells is better, and wrong pairs do not
    # move it. Below five pairs a single wrong one could.
    found, matched = _pair_at(detections, known, corner)
    if len(found) >= _MIN_PAIRS:
        offsets = known["centre"][matched] - detections.centres[found] - corner
        corner = corner + np.median(offsets, axis=0)
        found, matched = _pair_at(detections, known, corner)
    return corner, found, matched


def _pair_at(
    detections: Detections, known: NDArray[np.void], corner: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Match a frame's cells with known ones (M,) if the frame lies at `corner` (2,)."""
    return pair(
        detections.centres + corner,
        known["centre"],
        detections.widths,
        known["width"],
    )


def _dividing_frame(earlier: NDArray[np.int64], later: NDArray[np.int64]) -> int:
    """Return the frame number d for which earlier <= d < later in the most pairs.

    `earlier` and `later` (P,) are the last frames that showed the two finds of a cell.
    Without any pair it is the largest number: then nothing belongs to the later path.
    """
    if len(earlier) == 0:
        return int(np.iinfo(np.int64).max)
    # An optimal d is among `earlier`: a larger one that passes no further value of
    # `earlier` can only lose pairs on the side of `later`.
    divided = (earlier[None] <= earlier[:, None]) & (earlier[:, None] < later[None])
    return int(earlier[divided.sum(axis=1).argmax()])


def _row_type(classes: int) -> np.dtype[np.void]:
    """Return the type of a row: one cell.

    `centre` px in its patch and `width` px are means over its finds; `log_likely` the
    sum of log-probabilities; `times_found` of `times_expected` frames showed it;
    `last_seen` is the number of the last of these.
    """
    return np.dtype(
        [
            ("patch", np.int32),
            ("centre", np.float64, (2,)),
            ("width", np.float64),
            ("log_likely", np.float64, (classes,)),
            ("times_found", np.int32),
            ("times_expected", np.int32),
            ("last_seen", np.int64),
        ]
    )


def _is_within(
    points: NDArray[np.float64], size: tuple[int, int], margin_px: float
) -> NDArray[np.bool_]:
    """Whether points (N, 2) lie in a picture (w, h), at least `margin_px` inside."""
    return np.asarray(
        ((points >= margin_px) & (points < np.array(size) - margin_px)).all(axis=1)
    )
