"""Measure whether following cells costs more the longer a run lasts: time and memory.

Tracker, sequence model and events work on frames of one artificial scene. The frames
cost the same; only the number of frames before them differs.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.clock import utc_of
from edge.frames import RawFrame, Shot
from edge.pipeline.parts import Parts
from edge.pipeline.pipeline import ExaminedFrame
from edge.run.composition import open_follower
from edge.schema.codec import encode
from edge.schema.results import Cell, FrameRange, FrameResult
from edge.settings.timelapse import EventSettings, PauseSettings, TrackingSettings

_UM, _FRAME_PX = 0.14, (960, 720)
_FIRST, _SPAN = 100, 500  # the first frame that counts, and how many make a figure
_PERIOD = 240  # frames after which the stage has come back


@dataclass(frozen=True, slots=True, eq=False)
class Cost:
    """Cost of following: ms per frame (frames,), and MB in use at each whole hour."""

    spent_ms: NDArray[np.float64]
    hourly_mb: list[float]
    cells: int

    @property
    def ratio(self) -> float:
        """Median cost of the last frames over that from frame 100 on."""
        early = np.median(self.spent_ms[_FIRST : _FIRST + _SPAN])
        return float(np.median(self.spent_ms[-_SPAN:]) / early)

    @property
    def mb_per_hour(self) -> float:
        """Slope of a straight line through the memory after the first hour."""
        hours = np.arange(len(self.hourly_mb))[1:]
        if len(hours) < 2:
            return float("nan")
        return float(np.polyfit(hours, self.hourly_mb[1:], 1)[0])


def measure_cost(
    parts: Parts,
    frames: int,
    cells: int,
    interval_s: float,
    say: Callable[[str], None],
) -> Cost:
    """Follow `cells` cells through `frames` frames, one per `interval_s`.

    `say` shows a line of progress each hour of the run.
    """
    follower = open_follower(
        parts, TrackingSettings(), PauseSettings(), EventSettings()
    )
    spent_ms, hourly_mb = np.zeros(frames), []
    per_hour = max(1, round(3600 / interval_s))
    for number, examined in enumerate(_frames(cells, frames, interval_s)):
        if number % per_hour == 0:
            gc.collect()
            hourly_mb.append(_used_mb())
            say(f"frame {number}: {hourly_mb[-1]:.1f} MB, {follower.live} tracks")
        start = time.thread_time()
        result = follower.follow(examined)
        spent_ms[number] = 1e3 * (time.thread_time() - start)
        encode(result)
    hourly_mb.append(_used_mb())
    follower.close()
    return Cost(spent_ms, hourly_mb, cells)


def _frames(cells: int, frames: int, interval_s: float) -> Iterator[ExaminedFrame]:
    """Yield frames of noise with boxes that drift there and back; one in 30 is missed.

    Cells come into view and leave it, so tracks begin and end all the time.
    """
    random = np.random.default_rng(0)
    pixels = random.integers(120, 250, (_FRAME_PX[1], _FRAME_PX[0], 3), np.uint8)
    width, height = _FRAME_PX
    reach = 200
    count = int(cells * (width + 2 * reach) * (height + 2 * reach) / (width * height))
    at = random.uniform(-reach, (width + reach, height + reach), (count, 2))
    for number in range(frames):
        turn = 2 * np.pi * (number % _PERIOD) / _PERIOD
        moved = at + 150 * np.array([np.cos(turn), np.sin(turn)])
        moved = moved + random.normal(0, 0.7, at.shape)
        whole = ((moved > 30) & (moved < (width - 30, height - 30))).all(axis=1)
        whole &= random.random(count) > 1 / 30
        shot = Shot(number, int(number * interval_s * 1e9), utc_of(0), "made")
        result = _result(shot, np.rint(moved[whole]).astype(int).tolist())
        yield ExaminedFrame(RawFrame(shot, pixels), result)


def _result(shot: Shot, centres: list[list[int]]) -> FrameResult:
    """Return the result of a frame with red cells at these centres, in pixels."""
    probabilities = {"RBC": 0.97, "WBC": 0.01, "Platelet": 0.01, "Plasma": 0.01}
    return FrameResult(
        status="ok",
        utc=shot.utc,
        monotonic_ns=shot.monotonic_ns,
        boot_id="made",
        clock_synchronised=True,
        source=shot.source_id,
        frame=FrameRange(first=shot.sequence, last=shot.sequence),
        width_px=_FRAME_PX[0],
        height_px=_FRAME_PX[1],
        pixel_size_um=_UM,
        locator="made",
        software="made",
        cells=tuple(
            Cell(
                id=number,
                box=(x - 27, y - 27, x + 27, y + 27),
                label="RBC",
                ontology=None,
                confidence=0.97,
                probabilities=probabilities,
                abstained=False,
            )
            for number, (x, y) in enumerate(centres)
        ),
    )


def _used_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 1e6
