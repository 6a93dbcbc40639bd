from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.engines import EngineFailed
from edge.errors import FrameRejected
from edge.frames import Exposure, Gap, RawFrame, SourceEnded
from edge.ledger.preview_file import PreviewWriter, newest_preview
from edge.ledger.reader import LedgerReader
from edge.ledger.rows import LedgerFull
from edge.ledger.writer import Ledger
from edge.pipeline.pipeline import ExaminedFrame
from edge.run.frame_worker import RunFailed
from edge.run.service import RunCollaborators, Service
from edge.schema.codec import decode
from edge.schema.entries import Entry, RunMark, read_row
from edge.schema.results import FrameResult, Quality, Result
from edge.settings.run import RunSettings
from edge.settings.timelapse import TrackingSettings
from edge.slide.run_state import RunState
from edge.slide.slide_counter import SlideCounter
from edge.timelapse.follower import Follower
from edge.timelapse.frame_intervals import FrameIntervals
from tests.conftest import frame_result, shot
from tests.edge.slide.slides import Ground

LABELS = ("RBC", "WBC", "Platelet", "Plasma")
FRAME = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)


@dataclass
class Recording:
    """A source that gives what it was told; a callable is called for the pixels."""

    items: list[Callable[[], NDArray[np.uint8]] | Gap | Exception]
    is_live: bool = False
    closed: bool = False
    given: int = 0

    def read(self, timeout_s: float) -> Exposure | Gap | None:
        if self.given >= len(self.items):
            raise SourceEnded("over")
        item = self.items[self.given]
        taken = shot(self.given)
        self.given += 1
        if isinstance(item, Exception):
            raise item
        if isinstance(item, Gap):
            return item
        return Exposure(taken, lambda: RawFrame(taken, item()))

    def close(self) -> None:
        self.closed = True


@dataclass
class Examining:
    """A pipeline that takes a moment, longer for even frames, and may fail."""

    failing: set[int] = field(default_factory=set)
    threads: set[str] = field(default_factory=set)
    cells: int = 1

    def examine(self, exposure: Exposure) -> ExaminedFrame:
        raw = exposure.develop()
        number = exposure.shot.sequence
        self.threads.add(threading.current_thread().name)
        time.sleep(0.004 if number % 2 == 0 else 0.001)
        if number in self.failing:
            raise EngineFailed(f"frame {number} does not fit")
        result = frame_result(self.cells, monotonic_ns=number)
        return ExaminedFrame(raw, result)

    def close(self) -> None:
        pass


def different(number: int) -> Callable[[], NDArray[np.uint8]]:
    return lambda: np.roll(FRAME, number, axis=0)


def damaged() -> NDArray[np.uint8]:
    raise FrameRejected("cut short; copy it again")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


def run(
    folder: Path,
    source: Recording,
    pipeline: Examining,
    frames: int | None = None,
    **settings: object,
) -> list[Result]:
    ledger = Ledger(folder, "scope-01")
    options = RunSettings(**({"workers": 2} | settings))  # type: ignore[arg-type]
    service = Service(
        source,
        lambda: pipeline,  # type: ignore[arg-type,return-value]
        ledger,
        PreviewWriter(folder, options.preview_hz),
        options,
        keep_rows=1000,
    )
    try:
        service.run(threading.Event(), frames=frames)
    finally:
        ledger.close()
    return results(folder)


def results(folder: Path) -> list[Result]:
    reader = LedgerReader(folder)
    rows = [decode(row.data, Result) for row in reader.rows(0, 10_000)]
    reader.close()
    return rows


def test_results_are_in_order_although_frames_run_in_parallel(folder: Path) -> None:
    pipeline = Examining()

    rows = run(folder, Recording([different(n) for n in range(60)]), pipeline)

    assert [row.monotonic_ns for row in rows] == list(range(60))
    assert len(pipeline.threads) == 2


def test_a_damaged_frame_is_a_rejected_row_in_its_place(folder: Path) -> None:
    source = Recording([different(0), damaged, different(2)])

    rows = run(folder, source, Examining())

    assert [row.status for row in rows] == ["ok", "rejected", "ok"]
    assert rows[1].reason == "cut short; copy it again"
    assert rows[1].frame.first == 1
    assert source.closed


def test_a_gap_is_a_row_with_what_is_known_of_it(folder: Path) -> None:
    missing = Gap(1, 3, "3 frames skipped by the camera", 5, shot().utc)

    rows = run(folder, Recording([different(0), missing, different(4)]), Examining())

    assert [row.status for row in rows] == ["ok", "gap", "ok"]
    assert (rows[1].frame.first, rows[1].frame.last, rows[1].frame.missed) == (1, 3, 3)


def test_a_failing_frame_is_a_row_and_the_next_one_goes_on(folder: Path) -> None:
    rows = run(folder, Recording([different(n) for n in range(6)]), Examining({2, 3}))

    assert [row.status for row in rows] == ["ok"] * 2 + ["rejected"] * 2 + ["ok"] * 2
    assert rows[2].reason == "frame 2 does not fit"


def test_failure_after_failure_ends_the_process_with_the_reason(folder: Path) -> None:
    source = Recording([different(n) for n in range(50)])

    with pytest.raises(RunFailed, match=r"5 frames in a row failed.*does not fit"):
        run(folder, source, Examining(set(range(3, 50))), most_failures=5)

    rows = results(folder)
    status = [row.status for row in rows]
    assert status[:8] == ["ok"] * 3 + ["rejected"] * 5
    assert set(status[8:-1]) <= {"rejected"}  # what was in hand when it gave up
    assert len(rows) < 30
    assert status[-1] == "gap"
    assert rows[-1].reason is not None
    assert "5 frames in a row failed" in rows[-1].reason
    assert source.closed


def test_gaps_and_damaged_frames_between_failures_do_not_hide_them(
    folder: Path,
) -> None:
    source = Recording([damaged if n % 2 else different(n) for n in range(60)])

    with pytest.raises(RunFailed, match="5 frames in a row"):
        run(folder, source, Examining(set(range(60))), most_failures=5)


def test_bad_files_of_a_recording_do_not_end_it(folder: Path) -> None:
    source = Recording([damaged] * 20 + [different(20)])

    rows = run(folder, source, Examining(), most_failures=5)

    assert [row.status for row in rows] == ["rejected"] * 20 + ["ok"]


def test_a_frozen_live_picture_is_rejected_and_not_counted(folder: Path) -> None:
    frozen: list[Callable[[], NDArray[np.uint8]] | Gap | Exception] = [different(0)]
    source = _Paced([*frozen * 6, different(1)])

    rows = run(folder, source, Examining(), workers=1, frozen_after=3)

    assert [row.status for row in rows] == ["ok"] * 2 + ["rejected"] * 4 + ["ok"]
    assert rows[3].cells == ()
    assert rows[3].reason is not None
    assert "identical" in rows[3].reason


class _Paced(Recording):
    """A live source whose next frame comes only when the last one was looked at."""

    def __init__(
        self, items: list[Callable[[], NDArray[np.uint8]] | Gap | Exception]
    ) -> None:
        super().__init__(items, is_live=True)
        self._seen = threading.Event()
        self._seen.set()

    def read(self, timeout_s: float) -> Exposure | Gap | None:
        if not self._seen.wait(timeout_s):
            return None
        item = super().read(timeout_s)
        if not isinstance(item, Exposure):
            return item
        self._seen.clear()
        return Exposure(item.shot, lambda: self._develop(item))

    def _develop(self, exposure: Exposure) -> RawFrame:
        self._seen.set()
        return exposure.develop()


def test_a_recording_may_repeat_a_picture(folder: Path) -> None:
    rows = run(folder, Recording([different(0)] * 8), Examining(), frozen_after=3)

    assert [row.status for row in rows] == ["ok"] * 8


def test_live_frames_that_nobody_could_look_at_are_counted(folder: Path) -> None:
    source = Recording([different(n) for n in range(300)], is_live=True)

    rows = run(folder, source, Examining(), workers=1)

    passed = sum(row.frame.passed_over for row in rows)
    assert len(rows) < 300
    assert passed + len(rows) == 300


def test_it_ends_after_so_many_frames(folder: Path) -> None:
    source = Recording([different(n) for n in range(100)])

    rows = run(folder, source, Examining(), frames=7)

    assert len(rows) == 7


def test_a_result_that_cannot_be_a_row_is_replaced_by_a_row_that_says_so(
    folder: Path,
) -> None:
    rows = run(folder, Recording([different(0)]), Examining(cells=2000))

    assert [row.status for row in rows] == ["rejected"]
    assert rows[0].reason is not None
    assert "2000 cells" in rows[0].reason
    assert rows[0].cells == ()


def test_a_source_that_breaks_in_its_own_way_ends_the_run_loudly(folder: Path) -> None:
    source = Recording([different(0), ZeroDivisionError("driver bug")])

    with pytest.raises(RunFailed, match="driver bug"):
        run(folder, source, Examining())

    rows = results(folder)
    assert [row.status for row in rows] == ["ok", "gap"]
    assert rows[-1].reason is not None
    assert "driver bug" in rows[-1].reason


def test_a_hung_engine_ends_the_run_and_what_others_saw_is_kept(folder: Path) -> None:
    released = threading.Event()

    class Hanging(Examining):
        def examine(self, exposure: Exposure) -> ExaminedFrame:
            if exposure.shot.sequence == 5:
                released.wait(30)
            return super().examine(exposure)

    source = Recording([different(n) for n in range(9)])
    with pytest.raises(RunFailed, match="hangs"):
        run(folder, source, Hanging(), most_frame_s=1.0)
    released.set()

    rows = results(folder)
    assert [row.monotonic_ns for row in rows[:-1]] == list(range(9))
    assert [row.status for row in rows] == ["ok"] * 5 + ["rejected"] + ["ok"] * 3 + [
        "gap"
    ]
    assert rows[5].frame.first == 5
    assert "hangs" in str(rows[5].reason)


def test_what_a_worker_had_in_hand_when_it_died_says_why(folder: Path) -> None:
    class Dying(Examining):
        def examine(self, exposure: Exposure) -> ExaminedFrame:
            if exposure.shot.sequence == 3:
                return None  # type: ignore[return-value]
            return super().examine(exposure)

    with pytest.raises(RunFailed, match="a worker failed"):
        run(folder, Recording([different(n) for n in range(9)]), Dying())

    rows = results(folder)
    (lost,) = [row for row in rows if row.status == "rejected"]
    assert lost.frame.first == 3
    assert str(lost.reason).startswith("given up: a worker failed: AttributeError")


def test_a_picture_that_cannot_be_drawn_costs_no_result(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.rendering.annotation.cv2.imencode", _cannot)

    rows = run(folder, Recording([different(0)]), Examining(), preview_hz=10.0)

    assert [row.status for row in rows] == ["ok"]
    assert newest_preview(folder) is None


def _cannot(*arguments: object) -> None:
    raise MemoryError


def test_a_source_whose_name_is_no_text_costs_no_result(folder: Path) -> None:
    class Odd(Examining):
        def examine(self, exposure: Exposure) -> ExaminedFrame:
            seen = super().examine(exposure)
            odd = msgspec.structs.replace(seen.result, source="\udcff")
            return ExaminedFrame(seen.raw, odd)

    rows = run(folder, Recording([different(0)]), Odd())

    assert [row.status for row in rows] == ["rejected"]
    assert rows[0].reason is not None
    assert "UTF-8" in rows[0].reason


def test_a_pipeline_that_cannot_be_opened_ends_the_run(folder: Path) -> None:
    ledger = Ledger(folder, "scope-01")

    def fail() -> None:
        raise EngineFailed("no such model")

    service = Service(
        Recording([different(n) for n in range(9)]),
        fail,  # type: ignore[arg-type]
        ledger,
        PreviewWriter(folder, 0),
        RunSettings(workers=2),
        keep_rows=10,
    )
    with pytest.raises(EngineFailed, match="no such model"):
        service.run(threading.Event())
    ledger.close()


def test_a_preview_belongs_to_its_row(folder: Path) -> None:
    rows = run(folder, Recording([different(0)]), Examining(), preview_hz=10.0)

    preview = newest_preview(folder)
    assert preview is not None
    assert preview.seq == rows[0].seq
    assert preview.jpeg.startswith(b"\xff\xd8")


def test_no_preview_is_made_unless_asked_for(folder: Path) -> None:
    run(folder, Recording([different(0)]), Examining())

    assert newest_preview(folder) is None


def test_a_full_disk_stops_acquisition_with_a_last_row_that_says_so(
    small_disk: Path,
) -> None:
    source = Recording([different(n) for n in range(5000)])

    with pytest.raises(LedgerFull):
        run(small_disk, source, Examining(cells=700))

    rows = results(small_disk)
    assert rows[-1].status == "gap"
    assert rows[-1].reason is not None
    assert "disk is full" in rows[-1].reason
    assert [row.seq for row in rows] == list(range(1, len(rows) + 1))


@dataclass
class Counting(Examining):
    """A pipeline whose frames are those of a small slide, one red cell on each."""

    ground: Ground | None = None

    def examine(self, exposure: Exposure) -> ExaminedFrame:
        seen = super().examine(exposure)
        cell = seen.result.cells[0]
        result = msgspec.structs.replace(
            seen.result,
            width_px=480,
            height_px=300,
            pixel_size_um=0.28,
            cells=(msgspec.structs.replace(cell, box=(240, 140, 270, 168)),),
        )
        assert self.ground is not None
        return ExaminedFrame(seen.raw, result, self.ground.view(0, 0))


def count(
    folder: Path,
    source: Recording,
    ground: Ground,
    runs: RunState,
    counter: SlideCounter | None = None,
) -> list[Result | RunMark]:
    ledger = Ledger(folder, "scope-01")
    counter = counter or SlideCounter(LABELS, 0.5, 0.1)
    service = Service(
        source,
        lambda: Counting(ground=ground),  # type: ignore[arg-type,return-value]
        ledger,
        PreviewWriter(folder, 0.0),
        RunSettings(workers=2),
        keep_rows=1000,
        collaborators=RunCollaborators(timeline=runs, counter=counter),
    )
    try:
        service.run(threading.Event())
    finally:
        ledger.close()
    reader = LedgerReader(folder)
    rows = [read_row(row.data) for row in reader.rows(0, 1000)]
    reader.close()
    result = [row if isinstance(row, Result) else row.entry for row in rows]
    return [one for one in result if isinstance(one, (Result, RunMark))]


def test_a_run_stands_in_the_ledger_from_its_start_to_its_end(
    folder: Path, ground: Ground
) -> None:
    runs = RunState()
    run = runs.start_run("S26-1", "op7", "fresh oil")

    rows = count(folder, Recording([different(n) for n in range(9)]), ground, runs)

    assert rows[0] == RunMark(
        run=run, phase="start", slide="S26-1", operator="op7", text="fresh oil"
    )
    assert rows[-1] == RunMark(run=run, phase="end")
    frames = [row for row in rows if isinstance(row, Result)]
    assert [(row.status, row.run) for row in frames] == [("ok", run)] * 9
    totals = [row.differential.total for row in frames if row.differential is not None]
    assert totals == [1] * 9  # the cell is in view nine times and counted once


def test_commands_from_another_thread_become_rows_among_frames(
    folder: Path, ground: Ground
) -> None:
    runs = RunState()
    first, second = runs.start_run("S26-1"), []

    def change() -> NDArray[np.uint8]:
        runs.add_note("half way")
        second.append(runs.start_run("S26-2"))
        return different(5)()

    frames = [different(n) for n in range(10)]
    rows = count(folder, Recording([*frames[:5], change, *frames[6:]]), ground, runs)

    marks = [(row.run, row.phase) for row in rows if isinstance(row, RunMark)]
    assert marks == [
        (first, "start"),
        (first, "note"),
        (first, "end"),
        (second[0], "start"),
        (second[0], "end"),
    ]
    under_way = None  # no row of a run stands before its start
    for row in rows:
        if isinstance(row, RunMark):
            under_way = None if row.phase == "end" else row.run
        else:
            assert row.run == under_way


def test_what_cannot_be_counted_is_said_and_costs_no_result(
    folder: Path, ground: Ground
) -> None:
    odd = SlideCounter(("a class", "that nobody names"), 0.5, 0.1)
    runs = RunState()
    runs.start_run()

    rows = count(folder, Recording([different(0)]), ground, runs, odd)

    (row,) = (row for row in rows if isinstance(row, Result))
    assert row.status == "degraded"
    assert row.reason is not None
    assert row.reason.startswith("not counted")
    assert len(row.cells) == 1


GOOD = Quality(
    focus=1.0,
    saturated=0.0,
    background=(250.0, 250.0, 250.0),
    background_delta_e=None,
    brightness=0.8,
    motion=0.1,
    texture=0.1,
    covered=0.3,
)


@dataclass
class Wandering(Examining):
    """A pipeline that sees twelve cells drift, and others on `dark` frames."""

    dark: set[int] = field(default_factory=set)

    def examine(self, exposure: Exposure) -> ExaminedFrame:
        number = exposure.shot.sequence
        is_dark = number in self.dark
        brightness = 0.05 if is_dark else 0.8
        result = msgspec.structs.replace(
            _cells(1000 + number if is_dark else 1, 2 * number),
            monotonic_ns=number * 1_000_000_000,
            quality=msgspec.structs.replace(GOOD, brightness=brightness),
        )
        return ExaminedFrame(super().examine(exposure).raw, result)


def _cells(seed: int, shift: int) -> FrameResult:
    """Twelve red cells in a frame of 400 by 300 pixels."""
    cell = frame_result(1).cells[0]
    corners = np.random.default_rng(seed).integers(20, (300, 200), (12, 2)) + shift
    return msgspec.structs.replace(
        frame_result(12),
        cells=tuple(
            msgspec.structs.replace(cell, id=n, box=(x, y, x + 40, y + 40))
            for n, (x, y) in enumerate(corners.tolist())
        ),
        width_px=400,
        height_px=300,
        pixel_size_um=0.3,
        locator="l",
    )


def follow(
    folder: Path,
    pipeline: Examining,
    frames: int,
    open_follower: Callable[[], Follower] = lambda: Follower(
        TrackingSettings(confirm_after=1), FrameIntervals(1.8, 60.0)
    ),
    runs: RunState | None = None,
    **settings: object,
) -> list[Result]:
    """Let cells be followed, and counted if there is a slide."""
    ledger = Ledger(folder, "scope-01")
    counter = None if runs is None else SlideCounter(LABELS, 0.5, 0.1)
    service = Service(
        Recording([different(n) for n in range(frames)]),
        lambda: pipeline,  # type: ignore[arg-type,return-value]
        ledger,
        PreviewWriter(folder, 0.0),
        RunSettings(**({"workers": 2} | settings)),  # type: ignore[arg-type]
        keep_rows=1000,
        collaborators=RunCollaborators(
            open_follower=open_follower, timeline=runs, counter=counter
        ),
    )
    try:
        service.run(threading.Event())
    finally:
        ledger.close()
    return [row for row in all_rows(folder) if isinstance(row, Result)]


def all_rows(folder: Path) -> list[Result | Entry]:
    reader = LedgerReader(folder)
    rows = [read_row(row.data) for row in reader.rows(0, 1000)]
    reader.close()
    return rows


def test_what_the_gate_turns_away_ends_no_track(folder: Path) -> None:
    runs = RunState()
    runs.start_run("S26-1")

    rows = follow(folder, Wandering(dark={4, 5}), 8, runs=runs)

    tracks = [{cell.track_id for cell in row.cells} for row in rows]
    notes = [row.following for row in rows]
    assert [row.fault for row in rows] == [None] * 4 + ["dark"] * 2 + [None] * 2
    assert [note is None for note in notes] == [False] * 4 + [True] * 2 + [False] * 2
    assert tracks[6] == tracks[7] == tracks[3] != set()
    assert notes[6] is not None
    assert (notes[6].continuity, notes[6].ended) == ("discontinuous", ())


def test_a_frame_that_cannot_be_followed_is_a_row_and_the_next_one_goes_on(
    folder: Path,
) -> None:
    class Failing(Follower):
        def follow(self, seen: ExaminedFrame, **told: object) -> FrameResult:
            if seen.result.monotonic_ns == 2_000_000_000:
                raise EngineFailed("the states are lost")
            return super().follow(seen)

    def opened() -> Follower:
        return Failing(TrackingSettings(confirm_after=1), FrameIntervals(1.8, 60.0))

    runs = RunState()
    run = runs.start_run("S26-1")
    rows = follow(folder, Wandering(), 5, opened, runs)

    assert [row.status for row in rows] == ["ok"] * 2 + ["rejected"] + ["ok"] * 2
    assert rows[2].reason == "the states are lost"
    assert rows[2].cells == ()
    assert {row.run for row in rows} == {run}


def test_while_a_follower_is_opened_everything_else_goes_on(folder: Path) -> None:
    runs = RunState()
    runs.start_run("S26-1")

    def opened() -> Follower:
        time.sleep(0.3)
        runs.add_note("oil is fresh")
        time.sleep(0.3)
        return Follower(TrackingSettings(confirm_after=1), FrameIntervals(1.8, 60.0))

    rows = follow(folder, Wandering(), 5, opened, runs)

    assert all(row.following is not None for row in rows)
    first = [isinstance(row, Entry) for row in all_rows(folder)[:3]]
    assert first == [True, True, False]  # start and note stand before any frame


def test_a_follower_that_hangs_ends_the_run_with_the_reason(folder: Path) -> None:
    released = threading.Event()

    class Hanging(Follower):
        def follow(self, seen: ExaminedFrame, **told: object) -> FrameResult:
            if seen.result.monotonic_ns == 3_000_000_000:
                released.wait(30)
            return super().follow(seen)

    def opened() -> Follower:
        return Hanging(TrackingSettings(confirm_after=1), FrameIntervals(1.8, 60.0))

    with pytest.raises(RunFailed, match="hangs"):
        follow(folder, Wandering(), 20, opened, most_frame_s=1.0)
    released.set()

    rows = results(folder)
    assert [row.status for row in rows[:4]] == ["ok"] * 3 + ["rejected"]
    assert "hangs" in str(rows[3].reason)
    assert all(row.status == "rejected" for row in rows[4:-1])
    assert rows[-1].status == "gap"
    assert len(rows) < 12
