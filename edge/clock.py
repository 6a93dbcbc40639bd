"""What the machine knows of time: its boot, its clocks, whether to trust them."""

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
    """Monotonic time of this boot."""
    return time.monotonic_ns()


def is_synchronised() -> bool:
    """Whether the kernel says that wall time follows a reference."""
    query = ctypes.create_string_buffer(512)  # struct timex, all zero: only ask
    return bool(ctypes.CDLL(None).adjtimex(query) not in (-1, _TIME_ERROR))


def utc_now() -> datetime:
    """Wall time, aware."""
    return datetime.now(timezone.utc)


def utc_of(monotonic_ns: int) -> datetime:
    """Wall time of a moment on the monotonic clock, by their present offset."""
    age_s = (time.monotonic_ns() - monotonic_ns) * 1e-9
    return datetime.fromtimestamp(time.time() - age_s, timezone.utc)


def suspended_ns() -> int:
    """Return how long the machine was suspended since its boot.

    Monotonic time stands still then; it is right to some microseconds.
    """
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
