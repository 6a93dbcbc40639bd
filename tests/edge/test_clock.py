from __future__ import annotations

import time
from datetime import datetime, timezone

from edge import clock


def test_a_monotonic_moment_has_its_wall_time() -> None:
    moment_ns = time.monotonic_ns() - 5_000_000_000

    age_s = (datetime.now(timezone.utc) - clock.utc_of(moment_ns)).total_seconds()

    assert 4.9 < age_s < 5.2


def test_the_kernel_is_asked_whether_the_clock_is_synchronised() -> None:
    assert clock.is_synchronised() in (True, False)
    assert len(clock.boot_id()) == 36
