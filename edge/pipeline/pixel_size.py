"""How large a pixel is: from the profile, the source, or the size of the red cells.

Once frames agree an estimate is kept for the session: a scale that followed every frame
would change what the same cell looks like. A scale that is told is compared with the
red cells, and doubted where they say another.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from edge.errors import FrameRejected
from edge.pipeline.scale_reading import CellsAtScale, Reading, reading_of
from edge.schema.pixel_sizes import why_not_sensible

Origin = Literal["profile", "source", "estimated"]
Estimate = Callable[[], Reading | None]
FindCells = Callable[[], CellsAtScale]

_AGREEMENT = 1.1  # largest over smallest estimate
_APART = 1.15  # told over measured: beyond, the told one is doubted
_POOLED_CELLS = 200  # of the last frames; a changed objective outvotes them soon
_CELLS_OF_A_FRAME = 50  # so that one crowded frame is not all of the pool
_EVERY = 4  # frame that is looked at once the pool is full: a look costs 0.2 ms
_ENOUGH_CELLS = 3
_LEAST_SCORE = 0.6  # on 393 fields it was higher at the right scale, lower far off it
_MORE_RARELY, _RARELY = 4, 256  # frames between two estimates of a told scale
_REMEDY = "set pixel_size_um of the source, or calibrate"
_REMEDIES = {
    "profile": "calibrate the scale with the objective in use",
    "source": "give the pixel size of the objective in use",
}


@dataclass(frozen=True, slots=True)
class PixelSize:
    """Micrometres per pixel, None if unknown, and where the figure comes from.

    `doubt` says why results at this scale are not to be trusted yet. Where it was read
    off cells, `range_um` are its limits (95 %) and `cells` how many there were.
    """

    um: float | None
    origin: Origin | None
    doubt: str | None = None
    range_um: tuple[float, float] | None = None
    cells: int | None = None


class FrameScale(Protocol):
    """Tells how large a pixel is, frame by frame. Shared between workers."""

    def of(
        self,
        source_um: float | None,
        estimate: Estimate,
        sequence: int | None = None,
    ) -> PixelSize:
        """Return the pixel size of a frame.

        Parameters
        ----------
        source_um
            What the source says of this frame; None if it does not know.
        estimate
            Reads the pixel size (µm) off the frame's cells; asked only where nobody
            else knows it.
        sequence
            The frame's number; a scale that was recorded knows frames by it.

        Raises
        ------
        FrameRejected
            No microscope has the pixel size that is told.
        """

    def check(
        self,
        told: PixelSize,
        cells: FindCells,
        estimate: Estimate,
        sequence: int | None = None,
    ) -> PixelSize:
        """Compare a pixel size with the cells that were found at it.

        Parameters
        ----------
        told
            What `of` said of this frame.
        cells
            Gives the red cells of the frame at that scale.
        estimate, sequence
            As for `of`. The estimate costs more than the rest of a frame and is asked
            only where the cells raise a suspicion, and ever more rarely.

        Returns
        -------
        PixelSize
            The same; with a doubt, where told and measured are more than 15 % apart.
        """


class Scale:
    """The pixel size of a session: known, or settled by frames that agree.

    Where neither profile nor source knows it, each frame is estimated by itself until
    `agreeing` frames in a row agree; their median is then the session's.
    """

    def __init__(self, profile_um: float | None, *, agreeing: int = 3) -> None:
        """`profile_um` is what the profile says, None if nothing."""
        self._settled: PixelSize | None = None
        if profile_um is not None:
            self._settled = PixelSize(profile_um, "profile")
        self._agreeing = agreeing
        self._estimates: list[Reading] = []
        self._watched: _ToldScale | None = None
        self._lock = threading.Lock()

    def of(
        self,
        source_um: float | None,
        estimate: Estimate,
        sequence: int | None = None,
    ) -> PixelSize:
        """See `FrameScale.of`; what the profile says goes before the source."""
        with self._lock:
            settled = self._settled
            if settled is not None and settled.origin == "profile":
                return settled
            if source_um is not None:  # of this frame: an objective may be changed
                refused = why_not_sensible(source_um)
                if refused is not None:
                    raise FrameRejected(refused)
                return PixelSize(source_um, "source")
            return settled or self._take(estimate())

    def check(
        self,
        told: PixelSize,
        cells: FindCells,
        estimate: Estimate,
        sequence: int | None = None,
    ) -> PixelSize:
        """See `FrameScale.check`; cells of the last frames are pooled."""
        if told.um is None or told.origin not in _REMEDIES:
            return told
        with self._lock:
            if self._watched is None or self._watched.um != told.um:
                self._watched = _ToldScale(told.um)
            measured = self._watched.contradiction(cells, estimate)
        return told if measured is None else replace(told, doubt=_apart(told, measured))

    def _take(self, reading: Reading | None) -> PixelSize:
        if reading is None or why_not_sensible(reading.um) is not None:
            self._estimates.clear()
            return PixelSize(
                None,
                None,
                f"pixel size unknown: too few cells to read it off; {_REMEDY}",
            )
        self._estimates = [*self._estimates, reading][-self._agreeing :]
        sizes = [each.um for each in self._estimates]
        low, high = min(sizes), max(sizes)
        if len(sizes) < self._agreeing or high > low * _AGREEMENT:
            doubt = (
                f"pixel size not settled: {low:.3f} to {high:.3f} µm read off the "
                f"last {len(sizes)} frames, {self._agreeing} must agree; "
                f"{_REMEDY}"
            )
            return _estimated(reading, doubt)
        settled = _joint(self._estimates)
        if not settled.is_sure:
            return _estimated(settled, f"pixel size uncertain: {settled}; {_REMEDY}")
        self._settled = _estimated(settled)
        return self._settled


class _ToldScale:
    """A pixel size (µm) that was told, and what the red cells say of it."""

    def __init__(self, um: float) -> None:
        self.um = um
        self._ratios: deque[float] = deque(maxlen=_POOLED_CELLS)
        self._contradiction: Reading | None = None
        self._frames, self._wait_frames, self._waits_frames = 0, 0, 1

    def contradiction(self, cells: FindCells, estimate: Estimate) -> Reading | None:
        """Take the red cells of a frame; return what they say if it is another scale.

        The estimate must say so, too: far from the true scale the widths are not
        right, and near it they are off by chance in one frame of a hundred.
        """
        self._wait_frames -= 1
        self._frames += 1
        if len(self._ratios) == _POOLED_CELLS and self._frames % _EVERY:
            return self._contradiction
        found_cells = cells()
        self._ratios.extend(found_cells.ratios[:_CELLS_OF_A_FRAME].tolist())
        if not self._is_suspicious(found_cells.score):
            self._contradiction = None
        elif self._contradiction is None and self._wait_frames < 0:
            found = estimate()
            if found is not None and found.is_sure and found.is_apart(self.um, _APART):
                self._contradiction = found
            self._wait_frames = self._waits_frames
            self._waits_frames = min(_RARELY, self._waits_frames * _MORE_RARELY)
        return self._contradiction

    def _is_suspicious(self, score: float | None) -> bool:
        """Whether the cells do not look as they do at the true scale."""
        pooled = reading_of(np.array(self._ratios), self.um)
        if pooled is None or pooled.cells < _ENOUGH_CELLS:
            return True
        is_unlikely = score is not None and score < _LEAST_SCORE
        return is_unlikely or pooled.is_apart(self.um, _APART)


def _apart(told: PixelSize, measured: Reading) -> str:
    um = told.um or 0.0
    times = max(um / measured.um, measured.um / um)
    return (
        f"pixel size doubtful: the {told.origin} says {um:.3g} µm, the red cells "
        f"{measured}; {times:.2f} times apart, expected at most {_APART}; "
        f"{_REMEDIES[str(told.origin)]}"
    )


def _estimated(reading: Reading, doubt: str | None = None) -> PixelSize:
    low, high = reading.range_um
    limits = round(low, 6), round(high, 6)
    return PixelSize(reading.um, "estimated", doubt, limits, reading.cells)


def _joint(readings: list[Reading]) -> Reading:
    """Return the median of readings, with the error of their mean."""
    errors = np.array([each.error for each in readings])
    um = float(np.median([each.um for each in readings]))
    error = float(np.sqrt((errors**2).sum())) / len(readings)
    return Reading(um, sum(each.cells for each in readings), error)
