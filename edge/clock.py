"""The clocks of the machine: boot id, monotonic and wall time, synchronisation."""

from __future__ import annotations

import ctypes
import time
from datetime import datetime, timezone
from functools import cache
from pathlib import Path

_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised


@cache
def boot_id() -> str:
    """Return the kernel's id of this boot: monotonic times compare only within one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def monotonic_ns() -> int:
    """Return the monotonic time of this boot."""
    return time.monotonic_ns()


def is_synchronised() -> bool:
    """Whether the kernel says that wall time follows a reference."""
    query = ctypes.create_string_buffer(512)  # struct timex; all zero sets nothing
    return bool(ctypes.CDLL(None).adjtimex(query) not in (-1, _TIME_ERROR))


def utc_now() -> datetime:
    """Return wall time, with its time zone."""
    return datetime.now(timezone.utc)


def utc_of(monotonic_ns: int) -> datetime:
    """Return the wall time of a monotonic time, by the present offset of the clocks."""
    age_s = (time.monotonic_ns() - monotonic_ns) * 1e-9
    return datetime.fromtimestamp(time.time() - age_s, timezone.utc)


def suspended_ns() -> int:
    """Return how long the machine was suspended since its boot.

    The monotonic clock stands still while the machine is suspended. The result is exact
    to some microseconds.
    """
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
