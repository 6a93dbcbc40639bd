"""Runs that are started by command or resumed, live and replayed, to the last bit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest

from edge.acquisition.pausable_source import PausableSource
from edge.acquisition.schedule import Phase, Plan
from edge.acquisition.scheduled_source import ScheduledSource
from edge.ledger.preview_file import PreviewWriter
from edge.ledger.reader import LedgerReader
from edge.ledger.writer import Ledger
from edge.pipeline.calibration_drift import DriftWatch
from edge.pipeline.parts import Parts, read_parts
from edge.pipeline.pixel_size import Scale
from edge.recording.format import HEAD, SETTINGS, Frame, Recording, recordings_in
from edge.recording.opening import open_recorder
from edge.remote.client import new_request
from edge.replay.comparison import Comparison, compare, results_of
from edge.replay.replay import replay
from edge.run.composition import follower_opener, open_slide_counter
from edge.run.run_controller import RunController
from edge.run.service import RunCollaborators, Service
from edge.schema.codec import encode, read_toml
from edge.schema.requests import StartRequest
from edge.schema.results import Following, Result
from edge.settings.files import DeviceFile, ReplaySettings
from edge.settings.models import SequenceSettings
from edge.settings.run import (
    DifferentialSettings,
    LedgerSettings,
    RecordingSettings,
    RunSettings,
)
from edge.settings.sources import SimulatedSettings
from edge.settings.timelapse import EventSettings, TrackingSettings
from edge.slide.run_state import RunState
from edge.sources.opening import open_source
from edge.timelapse.resume_state import ResumeState, resume_state_of

# Whatever a cell is, that is an event as soon as it is seen.
LOUD = EventSettings(
    quiet=(),
    begin_at=0.01,
    confirm_at=0.01,
    end_below=0.0,
    confirm_frames=1,
    least_rise=0.0,
    doubt_frames=1,
    settle_frames=0,
)


@dataclass(frozen=True)
class Lived:
    """What a device wrote, and what its last start recorded."""

    folder: Path

    @property
    def rows(self) -> list[Result]:
        with closing(LedgerReader(self.folder / "ledger")) as reader:
            return list(results_of(reader))

    @property
    def recording(self) -> Recording:
        return recordings_in(self.folder / "recordings")[-1]

    def replayed(self, parts: Parts) -> Comparison:
        """Replay the last recording, and compare it with the ledger."""
        again = self.folder / "again"
        settings = read_toml(self.recording.folder / SETTINGS, ReplaySettings)
        replay(self.recording, fresh(parts), settings, again, threading.Event())
        return compare(self.recording, self.folder / "ledger", again)


@dataclass
class Device:
    """A device that may be started again and again."""

    folder: Path
    parts: Parts
    settings: DeviceFile
    plan: Plan | None = None

    def live(
        self,
        rows: int,
        on_row: Callable[[int, RunController, Ledger], None] = lambda *told: None,
    ) -> Lived:
        """Write so many rows of frames and gaps, and leave the run open."""
        stop, written = threading.Event(), []
        with closing(Ledger(self.folder / "ledger", "scope-01")) as ledger:
            parts = fresh(self.parts)
            runs = RunState()
            counter = open_slide_counter(parts, self.settings.differential)
            held = PausableSource(open_source(self.settings.source))
            plan = None if self.plan is None else ScheduledSource(held, self.plan)
            controller = RunController(
                ledger, runs, held, plan, is_left_open=lambda: True
            )

            def wrote(*row: object) -> None:
                written.append(row)
                on_row(len(written), controller, ledger)
                if len(written) >= rows:
                    stop.set()

            left = resume_state_of(self.folder / "ledger", ledger.state.progress)
            recording = open_recorder(self.settings, parts, ledger, left, is_live=True)
            collaborators = RunCollaborators(
                timeline=runs,
                counter=counter,
                controller=controller,
                open_follower=follower_opener(parts, self.settings, left),
                drift=DriftWatch(parts.profile),
                recorder=recording.recorder,
            )
            service = Service(
                plan or held,
                parts.open_pipeline,
                ledger,
                PreviewWriter(self.folder / "ledger", 0),
                self.settings.run,
                keep_rows=1000,
                collaborators=collaborators,
            )
            service.run(stop, on_row=wrote)
        return Lived(self.folder)


@pytest.fixture(scope="module")
def recurrent() -> Parts:
    return read_parts(sequence=SequenceSettings())


def fresh(parts: Parts) -> Parts:
    """The same with a scale that nobody settled yet, as after a start."""
    return replace(parts, scale=Scale(None))


def device(folder: Path, parts: Parts, *, is_counting: bool = True) -> Device:
    settings = DeviceFile(
        device="scope-01",
        source=SimulatedSettings(
            width_px=480,
            height_px=360,
            pixel_size_um=0.14,
            rate_hz=6,
            drift_um_per_s=2,
            hand_move_every_s=0,
            seed=5,
        ),
        ledger=LedgerSettings(folder / "ledger"),
        run=RunSettings(workers=2),
        tracking=TrackingSettings(),
        sequence=SequenceSettings(),
        events=LOUD,
        differential=DifferentialSettings(is_on=is_counting),
        recording=RecordingSettings(folder / "recordings", least_free_gb=0),
    )
    return Device(folder, parts, settings)


def start_another(row: int, controller: RunController, ledger: Ledger) -> None:
    """As the command does, between the sixth row and the next."""
    if row != 6:
        return
    request = new_request("start", "anna", slide="S26-2")
    assert isinstance(request, StartRequest)
    done = controller.start(request)
    ledger.append_all(done.rows)
    done.then()


def note(row: Result) -> Following:
    assert row.following is not None
    return row.following


def tracks_of(rows: list[Result]) -> set[int]:
    return {cell.track_id for row in rows for cell in row.cells if cell.track_id}


@pytest.mark.parametrize("is_counting", [True, False])
def test_another_run_begins_with_new_tracks_live_and_replayed(
    recurrent: Parts, tmp_path: Path, is_counting: bool
) -> None:
    made = device(tmp_path, recurrent, is_counting=is_counting)

    lived = made.live(14, start_another)

    runs = list(dict.fromkeys(row.run for row in lived.rows))
    assert len(runs) == 2
    frames = [row for row in lived.rows if row.following is not None]
    before = [row for row in frames if row.run == runs[0]]
    after = [row for row in frames if row.run == runs[1]]
    assert "new run" not in {note(row).continuity for row in [*before, *after[1:]]}
    assert note(after[0]).continuity == "new run"
    ended = {track for row in [*before, after[0]] for track in note(row).ended}
    assert ended == tracks_of(before) != set()
    assert min(tracks_of(after)) >= note(before[-1]).next_track
    told = [event for row in [*before, after[0]] for event in row.events]
    over = {event.id for event in told if event.phase == "ended"}
    assert over >= {event.id for event in told if event.track_id in ended}
    assert "another run was started" in {event.reason for event in after[0].events}

    found = lived.replayed(recurrent)
    assert (found.different, found.not_compared, found.partly_same) == ([], [], 0)
    assert found.same == len(lived.rows)


@pytest.mark.parametrize("plan", [None, Plan([Phase(300_000_000, 200)])])
def test_a_run_that_goes_on_is_replayed_with_its_numbers_and_what_it_missed(
    recurrent: Parts, tmp_path: Path, plan: Plan | None
) -> None:
    made = device(tmp_path, recurrent)
    made.plan = plan
    before = made.live(5).rows
    time.sleep(0.0 if plan is None else 1.0)  # points pass

    lived = made.live(8)

    after = lived.rows[len(before) :]
    assert {row.run for row in lived.rows} == {before[0].run}
    assert note(after[-1]).continuity != "first"
    kept = tracks_of(before[-1:]) & tracks_of(after)
    assert len(kept) > len(tracks_of(before[-1:])) / 2
    assert tracks_of(after) - kept
    assert min(tracks_of(after) - kept) > max(tracks_of(before))
    assert {row.differential and row.differential.since for row in after} == {
        after[0].utc
    }
    numbers = [[e.id for row in rows for e in row.events] for rows in (before, after)]
    assert min(numbers[1]) > max(numbers[0])
    if plan is not None:
        assert after[0].missed_points is not None
        assert str(after[0].reason).endswith("no process was at work")
    found = lived.replayed(recurrent)
    assert (found.different, found.not_compared, found.partly_same) == ([], [], 0)
    assert found.same == len(after)
    kept = [recorded.item for recorded in lived.recording.items()]
    assert all(item.scale is not None for item in kept if isinstance(item, Frame))


def test_numbers_that_are_not_recorded_are_seen_in_the_comparison(
    recurrent: Parts, tmp_path: Path
) -> None:
    """The control: a replay that begins at 1, as of an older recording, differs."""
    made = device(tmp_path, recurrent)
    made.live(5)
    lived = made.live(5)
    head = msgspec.structs.replace(lived.recording.head, left=ResumeState())

    (lived.recording.folder / HEAD).write_bytes(encode(head))

    found = lived.replayed(recurrent)
    assert found.same < len(found.different)
    assert any("track" in told for _, told in found.different)
