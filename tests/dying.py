"""A run of a made camera and a made pipeline that may be killed: quick to start.

    python -m tests.dying FOLDER POINTS INTERVAL_S FRAMES_PER_POINT

Everything is real but what is seen: twelve cells, always at the same place.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from edge.acquisition.pausable_source import PausableSource
from edge.acquisition.schedule import Phase, Plan
from edge.acquisition.scheduled_source import ScheduledSource
from edge.cli.signals import until_signalled
from edge.clock import utc_of
from edge.frames import Exposure, Gap, RawFrame, Shot
from edge.ledger.preview_file import PreviewWriter
from edge.ledger.writer import Ledger
from edge.pipeline.pipeline import ExaminedFrame
from edge.run.composition import open_housekeeping
from edge.run.run_controller import RunController
from edge.run.service import RunCollaborators, Service
from edge.settings.delivery import CommandSettings
from edge.settings.run import AlarmSettings, RunSettings
from edge.settings.timelapse import TrackingSettings
from edge.slide.run_state import RunState
from edge.timelapse.follower import Follower
from edge.timelapse.frame_intervals import FrameIntervals
from edge.timelapse.resume_state import resume_state_of
from tests.asking import DEVICE
from tests.conftest import frame_result

RATE_HZ = 50


class Camera:
    """A live camera of noise."""

    is_live = True

    def read(self, timeout_s: float) -> Exposure | Gap | None:
        time.sleep(1 / RATE_HZ)
        now_ns = time.monotonic_ns()
        number = now_ns * RATE_HZ // 1_000_000_000
        shot = Shot(number, now_ns, utc_of(now_ns), "made")
        pixels = np.random.default_rng(number).integers(0, 255, (48, 64, 3))
        return Exposure(shot, lambda: RawFrame(shot, pixels.astype(np.uint8)))

    def close(self) -> None:
        pass


class Examining:
    """A pipeline that always sees the same cells."""

    def examine(self, exposure: Exposure) -> ExaminedFrame:
        cell = frame_result(1).cells[0]
        corners = np.random.default_rng(1).integers(20, (300, 200), (12, 2)).tolist()
        result = msgspec.structs.replace(
            frame_result(0),
            cells=tuple(
                msgspec.structs.replace(cell, id=n, box=(x, y, x + 70, y + 70))
                for n, (x, y) in enumerate(corners)
            ),
            utc=exposure.shot.utc,
            monotonic_ns=exposure.shot.monotonic_ns,
            width_px=400,
            height_px=300,
            pixel_size_um=0.3,
            locator="l",
        )
        return ExaminedFrame(exposure.develop(), result)

    def close(self) -> None:
        pass


def main(folder: Path, points: int, interval_s: float, frames_per_point: int) -> None:
    """Run the schedule to its end, or until somebody kills this process."""
    ledger = Ledger(folder, DEVICE)
    held, runs = PausableSource(Camera()), RunState()
    plan = Plan([Phase(round(interval_s * 1e9), points)], frames_per_point)
    schedule = ScheduledSource(held, plan)
    controller = RunController(ledger, runs, held, schedule, is_left_open=lambda: True)
    left = resume_state_of(folder, ledger.state.progress)
    housekeeping = open_housekeeping(
        ledger,
        folder,
        held,
        lambda: "",
        controller=controller,
        commands=CommandSettings(),
        alarms=AlarmSettings(),
    )
    service = Service(
        schedule,
        Examining,  # type: ignore[arg-type]
        ledger,
        PreviewWriter(folder, 0.0),
        RunSettings(workers=2),
        keep_rows=1000,
        collaborators=RunCollaborators(
            housekeeping=housekeeping,
            timeline=runs,
            controller=controller,
            open_follower=lambda: Follower(
                TrackingSettings(),
                FrameIntervals(1.8, 60.0),
                resume=left,
            ),
        ),
    )
    with until_signalled() as stop:
        service.run(stop)
    ledger.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
