"""What a camera delivers, and the contract of everything that behaves like one.

A new kind of camera is a class with the three members of `Source`, and an entry in
`edge/sources/kinds.py`. It needs to do no more than the contract says: losing the
device, opening it again and frames that the driver skipped are dealt with around it, by
`edge.sources.reconnecting`.

Terms
-----
shot
    When and how a frame was exposed: number, time, camera, controls.
exposure
    A shot whose pixels are still as they came, not decoded. `develop` decodes them.
gap
    Frames that never came. Nothing is missing without one.

Examples
--------
A camera that gives two grey frames, and then has no more:

>>> from datetime import datetime, timezone
>>> import numpy as np
>>> class TwoFrames:
...     is_live = False
...
...     def __init__(self):
...         self._next = 0
...
...     def read(self, timeout_s):
...         if self._next == 2:
...             raise SourceEnded("both frames were read")
...         number, self._next = self._next, self._next + 1
...         now = datetime(2026, 1, 1, tzinfo=timezone.utc)
...         shot = Shot(number, monotonic_ns=number, utc=now, source_id="two-frames")
...         pixels = np.full((4, 6, 3), 100 + number, np.uint8)  # H, W, RGB
...         return Exposure(shot, lambda: RawFrame(shot, pixels))
...
...     def close(self):
...         pass

Whoever reads decodes what it wants to look at:

>>> source: Source = TwoFrames()
>>> exposure = source.read(timeout_s=0.5)
>>> exposure.shot.sequence
0
>>> exposure.develop().pixels.shape
(4, 6, 3)
>>> source.read(timeout_s=0.5).develop().pixels.max()
np.uint8(101)
>>> source.read(timeout_s=0.5)
Traceback (most recent call last):
edge.frames.SourceEnded: both frames were read
>>> source.close()
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge.errors import HemascopeError
from edge.schema.results import Controls, MissedPoints, Point

P = TypeVar("P")
Counts = NDArray[np.uint8] | NDArray[np.uint16]


class SourceLost(HemascopeError):
    """The device stopped answering; opening it again may help."""


class SourceEnded(HemascopeError):
    """A recording has no more frames."""

    exit_code = 0


@dataclass(frozen=True, slots=True)
class Shot:
    """When and how one frame was exposed.

    `sequence` counts the driver's frames: a jump means that frames are missing.
    `monotonic_ns` and `utc` are the start of exposure, or the earliest moment the
    driver lets us know. `camera` holds the camera's serial, as the driver names it;
    None for recordings. `controls` is how the camera was set, read back within the last
    second; None where the driver does not tell. `doubt` says why results of this frame
    are degraded. `pixel_size_um` is None where the settings do not give it.
    """

    sequence: int
    monotonic_ns: int
    utc: datetime
    source_id: str
    camera: str | None = None
    controls: Controls | None = None
    pixel_size_um: float | None = None
    doubt: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class RawFrame:
    """Sensor counts `pixels` (H, W, 3), uint8 or uint16, RGB, as they came.

    `notes` say what of the file was not looked at: results of them are degraded.
    `filler_bytes` lay between the last pixel of a JPEG and its end marker.
    """

    shot: Shot
    pixels: Counts
    notes: tuple[str, ...] = ()
    filler_bytes: int = 0

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[0])


@dataclass(frozen=True, slots=True)
class Planned(Generic[P]):
    """What belongs to a planned point of the schedule, and the run that planned it."""

    run: str
    what: P


@dataclass(frozen=True, slots=True, eq=False)
class Exposure:
    """A frame that is not decoded yet: one that nobody looks at costs nothing.

    `develop` decodes it; it may be called once, from any thread, and raises
    `FrameRejected` when what arrived is damaged. `planned` is set on frames of a plan.
    """

    shot: Shot
    develop: Callable[[], RawFrame]
    planned: Planned[Point] | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """Frames that never came: `missed` of them, from number `first` on.

    `missed` is None when nobody can know how many. `planned` names the points of the
    schedule among them.
    """

    first: int
    missed: int | None
    reason: str
    monotonic_ns: int
    utc: datetime
    planned: Planned[MissedPoints] | None = None


class Source(Protocol):
    """A camera, or a recording that behaves like one. Used from one thread.

    The constructor opens the device; it raises `SourceLost` where that fails now, and
    `ConfigurationInvalid` where it can never succeed as the settings are.
    """

    @property
    def is_live(self) -> bool:
        """Whether frames come by themselves: a camera, not a recording.

        Live frames may be passed over when no worker is free; recorded ones wait.
        """

    def read(self, timeout_s: float) -> Exposure | Gap | None:
        """Return what comes next, or None if `timeout_s` passed without anything.

        Numbers rise from one exposure to the next. Reading must not decode: that is
        what `Exposure.develop` is for, in another thread.

        Raises
        ------
        SourceLost
            The device stopped answering.
        SourceEnded
            The recording is over.
        """

    def close(self) -> None:
        """Release the device. Safe to call twice."""
