"""Controls and identity of a V4L2 camera, read from the kernel itself.

OpenCV hides the range of a control and whether a value was accepted, and has its own
numbers for automatic exposure. So the device is asked through a second handle beside
OpenCV's, which V4L2 allows while frames are streamed. Numbers are those of
`linux/videodev2.h` and `linux/v4l2-controls.h`.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
from pathlib import Path
from typing import NamedTuple

from edge.frames import SourceLost
from edge.schema.results import ControlName, Controls
from edge.settings.sources import AS_FOUND, ControlSettings
from edge.sources.camera_controls import (
    ControlNotApplied,
    ControlRange,
    ControlRefused,
    Readback,
    lock,
)

log = logging.getLogger(__name__)

CAPABILITY = struct.Struct("=16s32s32sIII12x")
QUERY = struct.Struct("=II32siiiiI8x")
CONTROL = struct.Struct("=Ii")


def _request(direction: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | ord("V") << 8 | number


QUERYCAP = _request(2, 0, CAPABILITY.size)
QUERYCTRL = _request(3, 36, QUERY.size)
G_CTRL = _request(3, 27, CONTROL.size)
S_CTRL = _request(3, 28, CONTROL.size)

AUTO_WHITE_BALANCE = 0x0098090C
RED_BALANCE = 0x0098090E
BLUE_BALANCE = 0x0098090F
GAMMA = 0x00980910
AUTOGAIN = 0x00980912
GAIN = 0x00980913
WHITE_BALANCE_TEMPERATURE = 0x0098091A
EXPOSURE_AUTO = 0x009A0901
EXPOSURE_ABSOLUTE = 0x009A0902
ANALOGUE_GAIN = 0x009E0903

DISABLED, READ_ONLY = 0x0001, 0x0004
VIDEO_CAPTURE, DEVICE_CAPS = 0x00000001, 0x80000000
BY_ID = Path("/dev/v4l/by-id")

_MANUAL, _SHUTTER_PRIORITY, _AUTO, _APERTURE_PRIORITY = 1, 2, 0, 3
_FIXED = (_MANUAL, _SHUTTER_PRIORITY)  # the second leaves the iris to the camera
_VALUES: dict[str, tuple[tuple[int, ...], float]] = {
    "exposure_ms": ((EXPOSURE_ABSOLUTE,), 0.1),  # the kernel counts 100 µs
    "gain": ((GAIN, ANALOGUE_GAIN), 1.0),
    "white_balance_k": ((WHITE_BALANCE_TEMPERATURE,), 1.0),
    "balance.red": ((RED_BALANCE,), 1.0),
    "balance.blue": ((BLUE_BALANCE,), 1.0),
    "gamma": ((GAMMA,), 1.0),
}
_AUTOMATIC: dict[ControlName, tuple[int, tuple[int, ...], tuple[int, ...]]] = {
    "exposure": (EXPOSURE_AUTO, _FIXED, (_APERTURE_PRIORITY, _AUTO)),
    "gain": (AUTOGAIN, (0,), (1,)),
    "white_balance": (AUTO_WHITE_BALANCE, (0,), (1,)),
}


class Capability(NamedTuple):
    """What a device answers about itself."""

    driver: str
    card: str
    bus: str
    gives_pictures: bool


class V4L2Controls:
    """The controls of one V4L2 device; `close` closes its handle."""

    def __init__(self, device: str) -> None:
        self._handle = os.open(device, os.O_RDWR | os.O_NONBLOCK)
        self._ids: dict[str, int] = {}
        self._spans: dict[str, ControlRange] = {}
        for value, (ids, unit) in _VALUES.items():
            for number in ids:
                span = self._query(number)
                if span is not None and value not in self._spans:
                    self._ids[value] = number
                    self._spans[value] = ControlRange(*(unit * part for part in span))
        self._has_automatic = {
            name for name, (number, _, _) in _AUTOMATIC.items() if self._query(number)
        }

    def span(self, value: str) -> ControlRange | None:
        """See `CameraControls.span`."""
        return self._spans.get(value)

    def get(self, value: str) -> float:
        """See `CameraControls.get`."""
        return round(self._get(self._ids[value]) * _VALUES[value][1], 6)

    def set(self, value: str, number: float) -> None:
        """See `CameraControls.set`."""
        self._set(self._ids[value], round(number / _VALUES[value][1]))

    def automatic(self, control: ControlName) -> bool | None:
        """See `CameraControls.automatic`."""
        if control not in self._has_automatic:
            return None
        number, off, _ = _AUTOMATIC[control]
        return self._get(number) not in off

    def set_automatic(self, control: ControlName, is_on: bool) -> None:
        """Try each of the kernel's modes; cameras know some of them."""
        number, off, on = _AUTOMATIC[control]
        refused: ControlNotApplied | None = None
        for mode in on if is_on else off:
            try:
                return self._set(number, mode)
            except ControlNotApplied as error:
                refused = refused or error
        raise refused or ControlNotApplied("no such mode")

    def capability(self) -> Capability | None:
        """Ask the device what it is; None if it is no V4L2 device."""
        try:
            answer = self._ask(QUERYCAP, bytes(CAPABILITY.size))
        except ControlNotApplied:
            return None
        *names, _, of_all_nodes, of_this_node = CAPABILITY.unpack(answer)
        driver, card, bus = (
            n.split(b"\0")[0].decode("utf-8", "replace") for n in names
        )
        caps = of_this_node if of_all_nodes & DEVICE_CAPS else of_all_nodes
        return Capability(driver, card, bus, bool(caps & VIDEO_CAPTURE))

    def close(self) -> None:
        """Close the handle. Safe to call twice."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _query(self, number: int) -> tuple[int, int, int] | None:
        """Return minimum, maximum and step of a control; None if it cannot be set."""
        packed = QUERY.pack(number, 0, b"", 0, 0, 0, 0, 0)
        try:
            answer = QUERY.unpack(self._ask(QUERYCTRL, packed))
        except ControlNotApplied:
            return None
        _, _, _, low, high, step, _, flags = answer
        return None if flags & (DISABLED | READ_ONLY) else (low, high, step)

    def _get(self, number: int) -> int:
        value: int = CONTROL.unpack(self._ask(G_CTRL, CONTROL.pack(number, 0)))[1]
        return value

    def _set(self, number: int, value: int) -> None:
        self._ask(S_CTRL, CONTROL.pack(number, value))

    def _ask(self, request: int, packed: bytes) -> bytes:
        buffer = bytearray(packed)
        try:
            fcntl.ioctl(self._handle, request, buffer, True)
        except OSError as error:
            raise ControlNotApplied(error.strerror or str(error)) from error
        return bytes(buffer)


def identity(device: str, by_id: Path = BY_ID) -> str:
    """Name a camera by a path that stays when it is plugged in elsewhere.

    Returns
    -------
    str
        Its path below `by_id`, which holds maker, model and serial, where udev made
        one; else `device` as it is, also where it is a path of udev's itself.
    """
    node = os.path.realpath(device)
    if Path(device).parent.parent == by_id.parent or not by_id.is_dir():
        return device  # chosen by id, or by path where ids are not unique
    links = sorted(p for p in by_id.iterdir() if os.path.realpath(p) == node)
    return str(links[0]) if links else device


class LockedDevice:
    """A V4L2 camera that was locked; `now` reads back how it is set."""

    def __init__(self, device: str, wanted: ControlSettings, name: str) -> None:
        """Lock a camera whose frames another handle streams.

        Raises
        ------
        ControlRefused
            A wanted value cannot be had, or the controls cannot be reached.
        SourceLost
            The driver does not answer.
        """
        self._driver: V4L2Controls | None = None
        self._readback: Readback | None = None
        try:
            self._driver = V4L2Controls(device)
        except OSError as error:
            if wanted != AS_FOUND:
                raise ControlRefused(
                    f"{name}: its controls cannot be reached ({error.strerror}); join "
                    "the group video"
                ) from error
            log.warning("camera=%s is not locked: %s", name, error)
            return
        try:
            self._readback = Readback(self._driver, lock(self._driver, wanted, name))
        except SourceLost:
            self.close()
            raise

    def now(self) -> Controls | None:
        """Return how the camera is set; None where that is unknown."""
        return None if self._readback is None else self._readback.now()

    def close(self) -> None:
        """Close the device. Safe to call twice."""
        if self._driver is not None:
            self._driver.close()
