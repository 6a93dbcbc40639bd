"""The run process with what it does beside the frames."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from edge.acquisition.pausable_source import PausableSource
from edge.frames import Exposure, Gap, RawFrame
from edge.ledger.preview_file import PreviewWriter, newest_preview
from edge.ledger.reader import LedgerReader
from edge.ledger.rows import LedgerMoved
from edge.ledger.writer import Ledger
from edge.monitoring.metrics import RunMetrics, read_metrics
from edge.mqtt import Message, topic
from edge.pipeline.pipeline import ExaminedFrame
from edge.remote.admission import Admission
from edge.remote.client import new_request
from edge.run.composition import open_housekeeping
from edge.run.frame_worker import RunFailed
from edge.run.lasting_commands import SNAPSHOTS
from edge.run.run_controller import RunController, RunRequest
from edge.run.service import RunCollaborators, Service
from edge.schema.codec import encode
from edge.schema.entries import Alarm, Note, RunMark, read_row
from edge.schema.requests import COMMANDS, CommandName
from edge.schema.results import Drift, Event, Result
from edge.settings.delivery import CommandSettings
from edge.settings.run import AlarmSettings, RunSettings
from edge.slide.run_state import RunState
from tests.asking import (
    DEVICE,
    audits_in,
    data_in,
    entries_in,
    marks_in,
    notes_in,
    rows_in,
)
from tests.conftest import frame_result, shot
from tests.edge.timelapse.test_event_alarms import LYSIS

FRAME = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)


class Camera:
    """A live source of ever new frames, or of none."""

    is_live = True

    def __init__(self) -> None:
        self.is_there = True
        self.number = 0

    def read(self, timeout_s: float) -> Exposure | Gap | None:
        time.sleep(0.005)
        if not self.is_there:
            return None
        self.number += 1
        taken, pixels = shot(self.number), np.roll(FRAME, self.number, axis=0)
        return Exposure(taken, lambda: RawFrame(taken, pixels))

    def close(self) -> None:
        pass


class Examining:
    """A pipeline that sees three cells, or fails."""

    def __init__(self) -> None:
        self.fails = False
        self.events: tuple[Event, ...] = ()
        self.drift: Drift | None = None

    def examine(self, exposure: Exposure) -> ExaminedFrame:
        if self.fails:
            raise ValueError("the engine is gone")
        events, self.events = self.events, ()
        since_ns = time.monotonic_ns() - 5_000_000
        result = frame_result(3, monotonic_ns=since_ns, events=events, drift=self.drift)
        return ExaminedFrame(exposure.develop(), result)

    def close(self) -> None:
        pass


class Run:
    """A run process in a thread, and the publisher's door to it."""

    def __init__(
        self, folder: Path, preview_hz: float = 0.0, *, is_interrupted: bool = False
    ) -> None:
        self.is_interrupted = is_interrupted
        self.folder, self.camera, self.pipeline = folder, Camera(), Examining()
        self.stop, self.ready = threading.Event(), threading.Event()
        self.tested, self.runs = 0, RunState()
        self.error: Exception | None = None
        self.preview_hz = preview_hz
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        assert self.ready.wait(5)
        self.reader = LedgerReader(folder)
        self.admission = Admission(
            folder, self.reader.state, CommandSettings(allow=COMMANDS)
        )

    def _run(self) -> None:
        ledger = Ledger(self.folder, DEVICE)
        source = PausableSource(self.camera)
        previews = PreviewWriter(self.folder, self.preview_hz)
        controller = RunController(
            ledger,
            self.runs,
            source,
            request=RunRequest("S26-1"),
            is_left_open=lambda: self.is_interrupted,
        )
        housekeeping = open_housekeeping(
            ledger,
            self.folder,
            source,
            self._test,
            controller=controller,
            commands=CommandSettings(allow=COMMANDS, keep_snapshots=2),
            alarms=AlarmSettings(no_frame_s=0.3, disk_share=(1.0, 1.0)),
        )
        service = Service(
            source,
            lambda: self.pipeline,  # type: ignore[arg-type,return-value]
            ledger,
            previews,
            RunSettings(workers=1, most_failures=30),
            keep_rows=1000,
            collaborators=RunCollaborators(
                housekeeping=housekeeping, timeline=self.runs, controller=controller
            ),
        )
        self.ready.set()
        try:
            service.run(self.stop)
        except (RunFailed, LedgerMoved) as error:
            self.error = error
        finally:
            ledger.close()

    def _test(self) -> str:
        self.tested += 1
        if self.tested > 1:
            raise ValueError("another output than at export")
        return "proven"

    def ask(
        self, name: CommandName, text: str | None = None, **result: str | None
    ) -> str:
        """Ask, and return the final outcome with its text."""
        request = new_request(name, "anna", text, **result)
        where = topic(DEVICE, f"cmd/req/{name}")
        self.admission.take(name, Message(where, encode(request), False))
        found: list[str] = []

        def is_answered() -> bool:
            found[:] = [
                f"{a.outcome}: {a.text}"
                for a in audits_in(self.folder)
                if a.request == request.id and a.outcome != "accepted"
            ]
            return bool(found)

        until(is_answered)
        return found[0]

    def results(self) -> list[Result]:
        rows = [read_row(row.data) for row in self.reader.rows(0, 100_000)]
        return [row for row in rows if isinstance(row, Result)]

    def end(self) -> None:
        self.stop.set()
        self.thread.join()
        self.admission.close()
        self.reader.close()


def until(holds: Callable[[], object], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)


def test_pause_holds_frames_back_and_resume_says_how_many(tmp_path: Path) -> None:
    run = Run(tmp_path, is_interrupted=True)
    until(lambda: len(run.results()) > 2)
    assert run.ask("pause").startswith("done: paused")
    assert run.ask("pause") == "done: it was paused already"
    time.sleep(0.5)  # what was in work
    before = len(run.results())
    number = run.camera.number
    until(lambda: run.camera.number > number + 20)
    assert len(run.results()) == before
    assert run.reader.state.is_paused
    run.end()

    again = Run(tmp_path)  # also after a restart
    until(lambda: again.camera.number > 20)
    assert len(again.results()) == before
    assert again.ask("snapshot").startswith("failed: nothing is examined now")
    assert again.ask("resume").startswith("done: examining again")
    until(lambda: len(again.results()) > before + 5)
    rows = again.results()
    again.end()

    gap = rows[before]
    assert gap.status == "gap"
    assert gap.reason is not None
    assert "held by command" in gap.reason
    assert gap.frame.missed is not None
    assert gap.frame.missed > 20
    assert rows[before + 1].status == "ok"


def test_snapshot_note_and_self_test_do_what_they_say(tmp_path: Path) -> None:
    run = Run(tmp_path, preview_hz=0.001)
    until(lambda: newest_preview(tmp_path) is not None)  # the first; none is due now
    rows = []
    for _ in range(3):
        result = run.ask("snapshot")
        assert result.startswith("done: the picture of row ")
        rows.append(int(result.split("row ")[1].split()[0]))
    assert run.ask("note", "oil changed") == "done: noted"
    assert run.ask("self-test") == "done: proven"
    assert run.ask("self-test") == "failed: another output than at export"
    run.end()

    kept = sorted((tmp_path / SNAPSHOTS).iterdir())
    assert [p.name for p in kept] == [f"row-{row:012d}.jpg" for row in rows[1:]]
    assert kept[0].read_bytes().startswith(b"\xff\xd8\xff")
    shown = newest_preview(tmp_path)
    assert shown is not None
    assert shown.seq >= rows[-1] > 1
    (noted,) = [m for m in marks_in(tmp_path) if m.phase == "note"]
    assert (noted.text, noted.by) == ("oil changed", "anna")


def test_a_run_of_a_slide_is_asked_for_from_its_start_to_its_end(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path)
    until(lambda: len(run.results()) > 2)
    result = run.ask("start", slide="S26-2", operator="op7", note="fresh oil")
    assert result.startswith("done: run ")
    second = result.split()[2]
    before = len(run.results())
    until(lambda: len(run.results()) > before + 5)
    assert run.ask("start") == "done: it was examining already"
    assert run.ask("note", "half way") == "done: noted"
    assert run.ask("stop").startswith(f"done: run {second} is ended")
    assert run.ask("stop") == "done: it was stopped already"
    assert run.ask("note", "put away") == "done: noted"
    for name in ("pause", "resume"):
        assert run.ask(name).startswith("failed: no run is under way")  # type: ignore[arg-type]
    assert run.ask("start").startswith("done: run ")
    run.end()

    marks = [(m.phase, m.slide, m.text, m.by) for m in marks_in(tmp_path)]
    assert marks == [
        ("start", "S26-1", None, None),
        ("end", None, None, None),
        ("start", "S26-2", "fresh oil", "anna"),
        ("note", None, "half way", "anna"),
        ("end", None, None, "anna"),
        ("start", None, None, "anna"),
        ("end", None, None, None),
    ]
    notes = [e.entry for e in entries_in(tmp_path) if isinstance(e.entry, Note)]
    assert notes == [Note(text="put away", by="anna")]  # to no run
    assert notes_in(tmp_path) == ["half way", "put away"]
    assert second in {row.run for row in rows_in(tmp_path) if isinstance(row, Result)}
    under_way = None
    for row in rows_in(tmp_path):
        if isinstance(row, Result):
            assert row.run == under_way
        elif isinstance(row.entry, RunMark):
            under_way = None if row.entry.phase == "end" else row.entry.run


@pytest.mark.parametrize(
    ("result", "secret"),
    [
        ({"slide": "Maria Garcia"}, "Garcia"),
        ({"operator": "Dr. Miller"}, "Miller"),
        ({"slide": "S26-2", "note": "born 12.4.1961"}, "12.4.1961"),
    ],
)
def test_what_may_name_a_patient_is_refused_and_stands_in_no_row(
    tmp_path: Path, result: dict[str, str | None], secret: str
) -> None:
    run = Run(tmp_path)
    assert run.ask("start", **result).startswith("refused: the ")  # type: ignore[arg-type]
    run.end()

    assert [m.phase for m in marks_in(tmp_path)] == ["start", "end"]
    assert secret.encode() not in b"".join(data_in(tmp_path))


def test_a_silent_camera_is_an_alarm(tmp_path: Path) -> None:
    run = Run(tmp_path)
    until(lambda: len(run.results()) > 5)
    run.camera.is_there = False

    def active() -> set[str]:
        return {a.code for a in run.reader.state.active_alarms()}

    until(lambda: "no-frames" in active())
    run.end()

    told = [e.entry for e in entries_in(tmp_path) if isinstance(e.entry, Alarm)]
    (begun,) = [a for a in told if a.code == "no-frames"]
    assert (begun.severity, begun.until) == ("red", None)


def test_what_happens_to_a_cell_is_a_result_and_an_alarm(tmp_path: Path) -> None:
    run = Run(tmp_path)
    until(lambda: len(run.results()) > 2)
    run.pipeline.events = (LYSIS,)
    until(lambda: "event-lysis" in {a.code for a in run.reader.state.active_alarms()})
    run.end()

    assert [e for row in run_results(tmp_path) for e in row.events] == [LYSIS]
    (alarm,) = [
        e.entry
        for e in entries_in(tmp_path)
        if isinstance(e.entry, Alarm) and e.entry.code == "event-lysis"
    ]
    assert (alarm.severity, alarm.until) == ("red", None)
    assert alarm.text.startswith("lysis of cell 7")


def test_a_drift_without_a_calibration_has_not_left_one(tmp_path: Path) -> None:
    run = Run(tmp_path)

    run.pipeline.drift = Drift(
        status="amber", of="red_cells", advice="look", since="first frames"
    )
    until(lambda: "drifted" in {a.code for a in run.reader.state.active_alarms()})
    run.end()

    (alarm,) = [
        e.entry
        for e in entries_in(tmp_path)
        if isinstance(e.entry, Alarm) and e.entry.code == "drifted"
    ]
    assert alarm.text == "red cells changed since the first frames of the run: look"


def run_results(folder: Path) -> list[Result]:
    return [row for row in rows_in(folder) if isinstance(row, Result)]


def test_a_run_that_must_end_says_so_with_an_alarm(tmp_path: Path) -> None:
    run = Run(tmp_path)
    until(lambda: len(run.results()) > 5)
    run.pipeline.fails = True
    run.thread.join(20)

    assert isinstance(run.error, RunFailed)
    (alarm,) = [
        a for a in run.reader.state.active_alarms() if a.code == "acquisition-stopped"
    ]
    assert "30 frames in a row failed" in alarm.text
    run.end()


@pytest.mark.parametrize("is_paused", [False, True])
def test_a_run_whose_ledger_was_moved_ends_and_says_why(
    tmp_path: Path, is_paused: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Also while no row is written, and without a line for every second of it."""
    run = Run(tmp_path / "ledger")
    until(lambda: len(run.results()) > 5)
    if is_paused:
        run.ask("pause")
        until(lambda: run.reader.state.is_paused)
    (tmp_path / "ledger").rename(tmp_path / "aside")
    run.thread.join(2)

    assert isinstance(run.error, LedgerMoved)
    assert f"{tmp_path / 'ledger' / 'ledger.sqlite'}: " in str(run.error)
    assert not (tmp_path / "ledger").exists()  # nothing is written there any more
    assert "Traceback" not in caplog.text
    (alarm,) = [
        a for a in run.reader.state.active_alarms() if a.code == "acquisition-stopped"
    ]
    assert "moved, replaced or deleted" in alarm.text  # in what was moved


def test_figures_are_written_each_second_and_grow_old(tmp_path: Path) -> None:
    run = Run(tmp_path)
    until(lambda: read_metrics(tmp_path) is not None)
    until(lambda: run.reader.span()[1] > 20)
    time.sleep(1.1)
    figures = read_metrics(tmp_path)
    run.end()

    assert figures is not None
    assert figures.rate_hz > 1
    assert figures.latency_ms is not None
    assert 5 <= figures.latency_ms.p50 <= figures.latency_ms.p99 < 5000
    assert 0 < figures.disk_used <= 1
    text = json.loads((tmp_path / "metrics.json").read_bytes())
    text["monotonic_ns"] -= 6_000_000_000
    (tmp_path / "metrics.json").write_bytes(json.dumps(text).encode())
    assert read_metrics(tmp_path) is None
    assert set(text) == set(RunMetrics.__struct_fields__)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff"])
def test_figures_that_are_none_are_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.json").write_bytes(content)

    assert read_metrics(tmp_path) is None


def test_every_command_has_a_handler(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path, DEVICE)) as ledger:
        source, runs = PausableSource(Camera()), RunState()
        housekeeping = open_housekeeping(
            ledger,
            tmp_path,
            source,
            lambda: "proven",
            controller=RunController(ledger, runs, source),
            commands=CommandSettings(allow=COMMANDS),
            alarms=AlarmSettings(),
        )

        handlers = housekeeping.executor.handlers

    assert set(handlers) == set(COMMANDS)
