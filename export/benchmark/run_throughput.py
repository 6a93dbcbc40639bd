"""Measure the whole run process: its throughput over the bound, and its latency.

The bound is the rate that the slowest stage, and the processor, allow at best.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.clock import utc_of
from edge.frames import Exposure, Gap, RawFrame, Shot
from edge.ledger.preview_file import PreviewWriter
from edge.ledger.rows import LedgerRow
from edge.ledger.writer import Ledger
from edge.pipeline.parts import Parts
from edge.run.service import Service
from edge.schema.results import FrameResult
from edge.settings.run import RunSettings
from edge.sources.image_files import decode_image
from export.benchmark.interleaved_timing import Figure, at_least, at_most, spread

Frame = NDArray[np.uint8]
_WARM_UP = 6  # results that are not counted


@dataclass(frozen=True, slots=True)
class EncodedFrames:
    """Encoded frames of one size, and how fast a camera delivers them."""

    frames: Sequence[bytes]
    pixel_um: float
    rate_hz: float

    def exposure(self, number: int) -> Exposure:
        """Return the exposure of that number, taken now."""
        now_ns = time.monotonic_ns()
        shot = Shot(
            number, now_ns, utc_of(now_ns), "bench", pixel_size_um=self.pixel_um
        )
        data = self.frames[number % len(self.frames)]
        return Exposure(shot, lambda: RawFrame(shot, decode_image(data, "bench")))


class LiveRecording:
    """Recorded frames as a live camera would deliver them."""

    is_live = True

    def __init__(self, recorded: EncodedFrames) -> None:
        self._recorded = recorded
        self._start_s = time.monotonic()
        self._next = 0

    def read(self, timeout_s: float) -> Exposure | Gap | None:
        """Wait for the next frame at the rate of the camera."""
        rate_hz = self._recorded.rate_hz
        due = max(self._next, int((time.monotonic() - self._start_s) * rate_hz) + 1)
        time.sleep(max(0.0, self._start_s + due / rate_hz - time.monotonic()))
        self._next = due + 1
        return self._recorded.exposure(due)

    def close(self) -> None:
        """Nothing to release."""


@dataclass(slots=True)
class ServiceRun:
    """Times of one run of the service. `latency_ms` is from exposure to ledger."""

    latency_ms: list[float] = field(default_factory=list)
    stages_ms: Counter[str] = field(default_factory=Counter)
    frames: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0


def run_service(
    recorded: EncodedFrames, parts: Parts, workers: int, frames: int
) -> ServiceRun:
    """Run the service on a ledger and time its results; the first do not count."""
    run = ServiceRun()
    marks: list[tuple[float, float]] = []

    def on_row(row: LedgerRow, result: FrameResult) -> None:
        marks.append((time.monotonic(), time.process_time()))
        if len(marks) > _WARM_UP:
            run.latency_ms.append(marks[-1][0] * 1e3 - result.monotonic_ns * 1e-6)
            run.stages_ms.update(result.timings_ms)

    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder), "bench")
        service = Service(
            LiveRecording(recorded),
            parts.open_pipeline,
            ledger,
            PreviewWriter(Path(folder), 0),
            RunSettings(workers=workers),
            keep_rows=1000,
        )
        service.run(threading.Event(), frames=frames + _WARM_UP, on_row=on_row)
        ledger.close()
    first, last = marks[_WARM_UP - 1], marks[-1]
    run.frames = len(marks) - _WARM_UP
    run.wall_s, run.cpu_s = last[0] - first[0], last[1] - first[1]
    return run


def faster_than_bound(
    encoded: Sequence[bytes], parts: Parts, pixel_um: float, cores: int
) -> EncodedFrames:
    """Return frames of a camera that is twice as fast as all cores together."""
    trial = EncodedFrames(encoded, pixel_um, 1.0)
    pipeline = parts.open_pipeline()
    spent_s = []
    for number in range(_WARM_UP):
        start_s = time.perf_counter()
        pipeline.examine(trial.exposure(number))
        spent_s.append(time.perf_counter() - start_s)
    pipeline.close()
    return replace(trial, rate_hz=2 * cores / min(spent_s))


def measure_running(
    recorded: EncodedFrames, parts: Parts, cores: int, frames: int
) -> list[Figure]:
    """Compare one worker with one per core, in turns."""
    serial, parallel = ServiceRun(), ServiceRun()
    for _ in range(3):
        for total, workers in ((serial, 1), (parallel, cores)):
            part = run_service(recorded, parts, workers, frames)
            total.latency_ms += part.latency_ms
            total.stages_ms.update(part.stages_ms)
            total.frames += part.frames
            total.wall_s += part.wall_s
            total.cpu_s += part.cpu_s
    stages = {n: v / serial.frames for n, v in serial.stages_ms.items() if n != "wait"}
    slowest = max(stages, key=lambda name: stages[name])
    cpu_ms = serial.cpu_s * 1e3 / serial.frames
    bound_hz = min(1e3 / stages[slowest], cores * 1e3 / cpu_ms)
    reached_hz = parallel.frames / parallel.wall_s
    one, many = spread(serial.latency_ms), spread(parallel.latency_ms)
    return [
        Figure(
            "serial, one worker",
            serial.frames / serial.wall_s,
            f"frames/s of a camera of {recorded.rate_hz:.0f}; CPU {cpu_ms:.1f} ms per "
            f"frame; slowest stage {slowest} {stages[slowest]:.1f} ms",
        ),
        at_least(
            f"throughput over bound, {cores} workers",
            reached_hz / bound_hz,
            0.90,
            f"{reached_hz:.1f} of {bound_hz:.1f} frames/s",
        ),
        at_most(
            "p50 latency over serial latency",
            many.median / one.median,
            1.3,
            f"{many} ms over {one} ms, exposure to ledger",
        ),
    ]
