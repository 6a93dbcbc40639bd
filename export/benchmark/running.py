"""The whole run process: throughput over its bound, latency over serial latency."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.assembly import Parts
from edge.clock import utc_of
from edge.frames import Exposure, Gap, RawFrame, Shot
from edge.images import decode_image
from edge.ledger import Ledger, LedgerRow
from edge.preview import PreviewWriter
from edge.results import Examination
from edge.service import Service
from edge.settings import RunSettings
from export.benchmark.timing import Figure, at_least, at_most, spread

Frame = NDArray[np.uint8]
_WARM_UP = 6  # results that do not count


class LiveRecording:
    """Encoded frames as a live camera of 60 frames per second would deliver them."""

    is_live = True

    def __init__(self, encoded: Sequence[bytes], pixel_um: float) -> None:
        self._encoded, self._pixel_um = encoded, pixel_um
        self._start_s = time.monotonic()
        self._next = 0

    def read(self, timeout_s: float) -> Exposure | Gap | None:
        """Wait for the next frame of the pace."""
        due = max(self._next, int((time.monotonic() - self._start_s) * 60) + 1)
        time.sleep(max(0.0, self._start_s + due / 60 - time.monotonic()))
        self._next = due + 1
        now_ns = time.monotonic_ns()
        shot = Shot(due, now_ns, utc_of(now_ns), "bench", pixel_size_um=self._pixel_um)
        data = self._encoded[due % len(self._encoded)]
        return Exposure(shot, lambda: RawFrame(shot, decode_image(data, "bench")))

    def close(self) -> None:
        """Nothing to release."""


@dataclass(slots=True)
class Run:
    """What one run of the service took. `latency_ms` is from exposure to ledger."""

    latency_ms: list[float] = field(default_factory=list)
    stages_ms: Counter[str] = field(default_factory=Counter)
    frames: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0


def run_service(
    encoded: Sequence[bytes], parts: Parts, pixel_um: float, workers: int, frames: int
) -> Run:
    """Run the real service on the real ledger and time its results."""
    run = Run()
    marks: list[tuple[float, float]] = []

    def on_row(row: LedgerRow, said: Examination) -> None:
        marks.append((time.monotonic(), time.process_time()))
        if len(marks) > _WARM_UP:
            run.latency_ms.append(marks[-1][0] * 1e3 - said.monotonic_ns * 1e-6)
            run.stages_ms.update(said.timings_ms)

    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder), "bench")
        service = Service(
            LiveRecording(encoded, pixel_um),
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


def measure_running(
    encoded: Sequence[bytes], parts: Parts, pixel_um: float, cores: int, frames: int
) -> list[Figure]:
    """Compare one worker with one per core, in turns."""
    serial, parallel = Run(), Run()
    for _ in range(3):
        for total, workers in ((serial, 1), (parallel, cores)):
            part = run_service(encoded, parts, pixel_um, workers, frames)
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
            f"frames/s; CPU {cpu_ms:.1f} ms per frame; slowest stage {slowest} "
            f"{stages[slowest]:.1f} ms",
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
