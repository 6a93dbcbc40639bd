"""Metrics of the instrument, once per second. Unlike results, they may be lost.

The run process writes them into a small file beside the ledger. The publisher adds how
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
from msgspec import Meta, Struct, UnsetType

from edge import clock
from edge.schema.codec import PayloadInvalid, decode, encode
from edge.schema.requests import Utc
from edge.schema.results import Count, FrameResult, Name, Share

_FILE = "metrics.json"
_WINDOW_S = 10.0
_MAX_FRAMES = 2000
_MAX_AGE_S = 5.0
NotNegative = Annotated[float, Meta(ge=0)]


class Latency(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From the start of exposure to the row on disk, milliseconds, percentiles."""

    p50: NotNegative
    p95: NotNegative
    p99: NotNegative


class FilledFrames(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """JPEGs of a camera that had bytes between the last pixel and the end marker.

    Some cameras fill up each frame. Where only some frames have them, see to the cable.
    """

    frames: Count
    bytes: Count


class RunMetrics(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Metrics of the run process.

    `rate_hz` and `latency_ms` are over the last ten seconds. `queue` is the number of
    frames in work now. `rows`, `rejected` and `passed_over` count since the process
    started, and so does `filled` of each camera, which for a recording is its kind of
    source. The disk is that of the ledger. The temperature is that of the hottest part,
    null where the machine measures none.
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
    filled: dict[str, FilledFrames] = {}


class Metrics(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Published once per second. `run` is null while the run process writes no metrics.

    `newest` is the last row of the ledger, `acknowledged` the last row that the archive
    has, `backlog` the number of rows between them.
    """

    v: Literal[1] = 1
    device: Name
    utc: Utc
    newest: Count
    acknowledged: Count
    backlog: Count
    run: RunMetrics | None


class Meter:
    """Counts the rows of the run process. Used from one thread."""

    def __init__(self, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._monotonic_ns = monotonic_ns
        self._rows: deque[tuple[int, float]] = deque(maxlen=_MAX_FRAMES)
        self.rows = self.rejected = self.passed_over = 0
        self.rejected_in_a_row = 0
        self._filled: dict[str, FilledFrames] = {}

    def count(self, result: FrameResult) -> None:
        """Count one row that was just written."""
        self.rows += 1
        self.passed_over += result.frame.passed_over
        if result.status == "gap":
            return
        self._count_filler(result)
        is_rejected = result.status == "rejected"
        self.rejected += is_rejected
        is_fault = (
            is_rejected and result.fault != "empty"
        )  # an empty field is no fault of it
        self.rejected_in_a_row = self.rejected_in_a_row + 1 if is_fault else 0
        now_ns = self._monotonic_ns()
        self._rows.append((now_ns, max(0.0, (now_ns - result.monotonic_ns) * 1e-6)))

    def _count_filler(self, result: FrameResult) -> None:
        """Count the filler bytes of a row by the camera that sent them."""
        if isinstance(result.filler_bytes, UnsetType):
            return
        camera = result.camera or result.source.partition(":")[0]
        before = self._filled.get(camera, FilledFrames(frames=0, bytes=0))
        self._filled[camera] = FilledFrames(
            frames=before.frames + 1, bytes=before.bytes + result.filler_bytes
        )

    def read(
        self, folder: Path, *, queue: int, is_paused: bool, spare_bytes: int = 0
    ) -> RunMetrics:
        """Return the metrics of this moment; `spare_bytes` as the ledger says."""
        now_ns = self._monotonic_ns()
        recent = [ms for at, ms in self._rows if now_ns - at <= _WINDOW_S * 1e9]
        free, used = disk_usage(folder, spare_bytes)
        return RunMetrics(
            utc=clock.utc_now(),
            monotonic_ns=now_ns,
            boot_id=clock.boot_id(),
            is_paused=is_paused,
            rate_hz=round(len(recent) / _WINDOW_S, 2),
            latency_ms=_percentiles(recent),
            queue=queue,
            rows=self.rows,
            rejected=self.rejected,
            passed_over=self.passed_over,
            disk_free_bytes=free,
            disk_used=used,
            temperature_c=temperature_c(),
            filled=dict(self._filled),
        )


def write_metrics(folder: Path, metrics: RunMetrics) -> None:
    """Replace the metrics of the run process; raises `OSError`."""
    draft = folder / f"{_FILE}.new"
    draft.write_bytes(encode(metrics))
    draft.replace(folder / _FILE)


def read_metrics(folder: Path) -> RunMetrics | None:
    """Return the metrics of the run process; None if they are old or unreadable."""
    try:
        metrics = decode((folder / _FILE).read_bytes(), RunMetrics)
    except (OSError, PayloadInvalid):
        return None
    age_s = (time.monotonic_ns() - metrics.monotonic_ns) * 1e-9
    is_fresh = metrics.boot_id == clock.boot_id() and 0 <= age_s < _MAX_AGE_S
    return metrics if is_fresh else None


def disk_usage(folder: Path, spare_bytes: int = 0) -> tuple[int, float]:
    """Return the free bytes on the disk of `folder`, and the used share.

    `spare_bytes` are inside the ledger's file: the disk counts them as used, but the
    ledger can write there. Blocks that only root may use are neither free nor used.
    """
    state = os.statvfs(folder)
    free = state.f_bavail * state.f_frsize + spare_bytes
    taken = max(0, (state.f_blocks - state.f_bfree) * state.f_frsize - spare_bytes)
    return free, round(taken / max(1, taken + free), 4)


def temperature_c(zones: Path = Path("/sys/class/thermal")) -> float | None:
    """Temperature of the hottest thermal zone, in °C; None if none can be read."""
    temperatures = []
    for zone in zones.glob("thermal_zone*/temp"):
        try:
            temperatures.append(int(zone.read_text(encoding="ascii")) / 1000)
        except (OSError, ValueError):  # a zone that is switched off
            continue
    plausible = [c for c in temperatures if -50 < c < 200]
    return max(plausible, default=None)


def _percentiles(latencies_ms: list[float]) -> Latency | None:
    if not latencies_ms:
        return None
    p50, p95, p99 = np.percentile(latencies_ms, [50, 95, 99]).round(2).tolist()
    return Latency(p50=p50, p95=p95, p99=p99)
