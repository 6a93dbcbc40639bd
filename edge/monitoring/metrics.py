"""How the instrument does, second by second: figures that may be lost, not results.

The run process writes them into a small file beside the ledger; the publisher adds how
far delivery is, and sends them.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta, Struct

from edge import clock
from edge.schema.codec import PayloadInvalid, decode, encode
from edge.schema.requests import Utc
from edge.schema.results import Count, FrameResult, Name, Share

_FILE = "metrics.json"
_OVER_S = 10.0
_MOST_FRAMES = 2000
_FRESH_S = 5.0
NotNegative = Annotated[float, Meta(ge=0)]


class Latency(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From the start of exposure to the row on disk, milliseconds, percentiles."""

    p50: NotNegative
    p95: NotNegative
    p99: NotNegative


class RunMetrics(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the run process says of itself.

    `rate_hz` and `latency_ms` are over the last ten seconds; `queue` is the frames in
    work now; `rows`, `rejected` and `passed_over` count since it started. The disk is
    the ledger's; the temperature that of the hottest part, null where none is told.
    """

    utc: Utc
    monotonic_ns: int
    boot_id: str
    is_paused: bool
    rate_hz: NotNegative
    latency_ms: Latency | None
    queue: Count
    rows: Count
    rejected: Count
    passed_over: Count
    disk_free_bytes: Count
    disk_used: Share
    temperature_c: float | None


class Metrics(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Published once per second; `run` is null while the run process is silent.

    `newest` is the ledger's last row, `acknowledged` the last that the archive has,
    `backlog` how many lie between.
    """

    v: Literal[1] = 1
    device: Name
    utc: Utc
    newest: Count
    acknowledged: Count
    backlog: Count
    run: RunMetrics | None


class Meter:
    """Counts what was written. Used from one thread."""

    def __init__(self, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._monotonic_ns = monotonic_ns
        self._rows: deque[tuple[int, float]] = deque(maxlen=_MOST_FRAMES)
        self.rows = self.rejected = self.passed_over = 0
        self.rejected_in_a_row = 0

    def count(self, result: FrameResult) -> None:
        """Count one row that was just written."""
        self.rows += 1
        self.passed_over += result.frame.passed_over
        if result.status == "gap":
            return
        is_rejected = result.status == "rejected"
        self.rejected += is_rejected
        is_fault = is_rejected and result.fault != "empty"  # the instrument works well
        self.rejected_in_a_row = self.rejected_in_a_row + 1 if is_fault else 0
        now_ns = self._monotonic_ns()
        self._rows.append((now_ns, max(0.0, (now_ns - result.monotonic_ns) * 1e-6)))

    def read(
        self, folder: Path, *, queue: int, is_paused: bool, spare_bytes: int = 0
    ) -> RunMetrics:
        """Return the figures of this moment; `spare_bytes` as the ledger says."""
        now_ns = self._monotonic_ns()
        recent = [ms for at, ms in self._rows if now_ns - at <= _OVER_S * 1e9]
        free, used = disk(folder, spare_bytes)
        return RunMetrics(
            utc=clock.utc_now(),
            monotonic_ns=now_ns,
            boot_id=clock.boot_id(),
            is_paused=is_paused,
            rate_hz=round(len(recent) / _OVER_S, 2),
            latency_ms=_percentiles(recent),
            queue=queue,
            rows=self.rows,
            rejected=self.rejected,
            passed_over=self.passed_over,
            disk_free_bytes=free,
            disk_used=used,
            temperature_c=temperature_c(),
        )


def write_metrics(folder: Path, metrics: RunMetrics) -> None:
    """Replace the figures of the run process; raises `OSError`."""
    draft = folder / f"{_FILE}.new"
    draft.write_bytes(encode(metrics))
    draft.replace(folder / _FILE)


def read_metrics(folder: Path) -> RunMetrics | None:
    """Return the figures of the run process; None if they are old or unreadable."""
    try:
        found = decode((folder / _FILE).read_bytes(), RunMetrics)
    except (OSError, PayloadInvalid):
        return None
    age_s = (time.monotonic_ns() - found.monotonic_ns) * 1e-9
    is_fresh = found.boot_id == clock.boot_id() and 0 <= age_s < _FRESH_S
    return found if is_fresh else None


def disk(folder: Path, spare_bytes: int = 0) -> tuple[int, float]:
    """Free bytes of the disk of `folder` for us, and the used share of what we may.

    `spare_bytes` of it are free for us though the disk says that they are taken.
    """
    state = os.statvfs(folder)
    free = state.f_bavail * state.f_frsize + spare_bytes
    taken = max(0, (state.f_blocks - state.f_bfree) * state.f_frsize - spare_bytes)
    return free, round(taken / max(1, taken + free), 4)


def temperature_c(zones: Path = Path("/sys/class/thermal")) -> float | None:
    """Temperature of the hottest thermal zone, in °C; None if none can be read."""
    found = []
    for zone in zones.glob("thermal_zone*/temp"):
        try:
            found.append(int(zone.read_text(encoding="ascii")) / 1000)
        except (OSError, ValueError):  # a part that is switched off
            continue
    real = [c for c in found if -50 < c < 200]
    return max(real, default=None)


def _percentiles(latencies_ms: list[float]) -> Latency | None:
    if not latencies_ms:
        return None
    p50, p95, p99 = np.percentile(latencies_ms, [50, 95, 99]).round(2).tolist()
    return Latency(p50=p50, p95=p95, p99=p99)
