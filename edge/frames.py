"""What a camera delivers, and the contract of everything that behaves like one."""

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
    are degraded. `pixel_size_um` is None where nobody has said it.
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
    """Sensor counts `pixels` (H, W, 3), uint8 or uint16, RGB, as they came."""

    shot: Shot
    pixels: Counts

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[0])


@dataclass(frozen=True, slots=True)
class Planned(Generic[P]):
    """What the plan of a run has to say of something."""

    run: str
    what: P


@dataclass(frozen=True, slots=True, eq=False)
class Exposure:
    """A frame not yet decoded, so that one nobody will look at costs nothing.

    `develop` decodes it; it may be called once, from any thread, and raises
    `FrameRejected` when what arrived is damaged. `planned` is set on frames of a plan.
    """

    shot: Shot
    develop: Callable[[], RawFrame]
    planned: Planned[Point] | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """Frames that never came: `missed` of them, from number `first` on.

    `missed` is None when nobody can know how many. `planned`: the planned ones of them.
    """

    first: int
    missed: int | None
    reason: str
    monotonic_ns: int
    utc: datetime
    planned: Planned[MissedPoints] | None = None


class Source(Protocol):
    """A camera, or a recording that behaves like one. Used from one thread."""

    @property
    def is_live(self) -> bool:
        """Live frames may be passed over when nobody is free; recorded ones wait."""

    def read(self, timeout_s: float) -> Exposure | Gap | None:
        """Return what comes next, or None if `timeout_s` passed without anything.

        Raises
        ------
        SourceLost
            The device stopped answering.
        SourceEnded
            The recording is over.
        """

    def close(self) -> None:
        """Release the device. Safe to call twice."""
