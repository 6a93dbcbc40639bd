"""A V4L2 driver as the kernel shows it, byte by byte: no such camera is at hand."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

from edge.sources import v4l2


@dataclass
class Control:
    """One control; `modes` where not every number between low and high is taken."""

    value: int
    low: int
    high: int
    step: int = 1
    flags: int = 0
    modes: tuple[int, ...] | None = None
    ignores_writes: bool = False


def webcam() -> dict[int, Control]:
    """Controls as a UVC camera has them after it was plugged in: all automatic."""
    return {
        v4l2.EXPOSURE_AUTO: Control(3, 0, 3, modes=(1, 3)),
        v4l2.EXPOSURE_ABSOLUTE: Control(157, 3, 2047),
        v4l2.GAIN: Control(64, 0, 255),
        v4l2.AUTO_WHITE_BALANCE: Control(1, 0, 1),
        v4l2.WHITE_BALANCE_TEMPERATURE: Control(4000, 2000, 7500, step=10),
        v4l2.GAMMA: Control(100, 72, 500),
    }


@dataclass
class Kernel:
    """Answers `fcntl.ioctl` as `v4l2-core` and `uvcvideo` do."""

    controls: dict[int, Control] = field(default_factory=webcam)
    is_plugged_in: bool = True
    is_capture: bool = True

    def ioctl(self, handle: int, request: int, buffer: bytearray, mutate: bool) -> int:
        if not self.is_plugged_in:
            raise OSError(errno.ENODEV, "No such device")
        if request == v4l2.QUERYCTRL:
            number = v4l2.QUERY.unpack(buffer)[0]
            c = self._find(number)
            buffer[:] = v4l2.QUERY.pack(
                number, 1, b"control", c.low, c.high, c.step, c.value, c.flags
            )
            return 0
        if request == v4l2.QUERYCAP:
            caps = (0x85200001, 0x04200000 + self.is_capture)
            buffer[:] = v4l2.CAPABILITY.pack(b"uvcvideo", b"A17", b"usb-1", 0, *caps)
            return 0
        number, value = v4l2.CONTROL.unpack(buffer)
        c = self._find(number)
        if request == v4l2.S_CTRL:
            self._write(c, value)
        elif request != v4l2.G_CTRL:
            raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")
        buffer[:] = v4l2.CONTROL.pack(number, c.value)
        return 0

    def _find(self, number: int) -> Control:
        if number not in self.controls:
            raise OSError(errno.EINVAL, "Invalid argument")
        return self.controls[number]

    @staticmethod
    def _write(control: Control, value: int) -> None:
        if control.modes is not None and value not in control.modes:
            raise OSError(errno.EINVAL, "Invalid argument")
        if control.ignores_writes:
            return
        steps = round((value - control.low) / control.step)
        control.value = min(
            max(control.low + steps * control.step, control.low), control.high
        )
