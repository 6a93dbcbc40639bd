from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from edge.archive.run_history import (
    MAX_INCIDENTS,
    RunHistory,
    RunUnknown,
    find_run,
    list_runs,
    read_run_history,
)
from edge.archive.run_list import runs_table
from edge.archive.run_report import write_run_page
from edge.archive.store import ArchiveFailed, Store
from edge.cli.runs import runs_command
from edge.clock import utc_now
from edge.ledger.reader import LedgerReader
from edge.ledger.writer import Ledger
from edge.mqtt import Message
from edge.schema.entries import EntryContent, Note
from edge.schema.results import (
    Event,
    Filmstrip,
    Following,
    FrameResult,
    TrackPrediction,
)
from edge.slide.run_state import RunState
from edge.timelapse.filmstrips import SIDE_PX, Filmstrips
from tests.conftest import frame_result

CLASSES = ("steady", "lysis")
FRAMES, ONSET, GAP = 60, 40, range(20, 30)
EXAMINED = 1 - len(GAP) / FRAMES


def strip() -> Filmstrip:
    films = Filmstrips()
    for frame in range(FRAMES):
        crops = np.full((1, SIDE_PX, SIDE_PX, 3), 4 * frame, np.uint8)
        films.add_frame(frame, np.array([5]), crops)
    made = films.filmstrip(5)
    assert isinstance(made, Filmstrip)
    return made


def frame(number: int, run: str | None) -> FrameResult:
    """One of an hour of frames, a minute apart; cell 5 bursts at its onset."""
    start, later_ns = utc_now(), number * 60 * 10**9
    result = frame_result(
        2,
        utc=start + timedelta(minutes=number),
        monotonic_ns=time.monotonic_ns() + later_ns,
        run=run,
    )
    if number in GAP:
        gap = msgspec.structs.replace(result, status="gap", reason="camera gone")
        return msgspec.structs.replace(gap, cells=(), counts={})
    share = 0.9 if number >= ONSET else 0.1
    course = TrackPrediction(
        label="lysis", probabilities=(1 - share, share), frames=number + 1
    )
    cell = msgspec.structs.replace(result.cells[0], track_id=5, course=course)
    events: tuple[Event, ...] = ()
    if number == ONSET + 2:
        events = (
            Event(
                id=1,
                track_id=5,
                change="lysis",
                phase="confirmed",
                onset=ONSET,
                onset_utc=start + timedelta(minutes=ONSET),
                frame=number,
                frames=3,
                confidence=0.9,
                box=(0, 0, 9, 9),
                strip=strip(),
            ),
        )
    following = Following(continuity="continuous", tracks=1, classes=CLASSES)
    return msgspec.structs.replace(
        result, cells=(cell, result.cells[1]), following=following, events=events
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of two runs: one ended with a note, one cut off."""
    folder = tmp_path_factory.mktemp("archive")
    runs = RunState()
    with closing(Ledger(folder / "ledger", "scope-1")) as ledger:

        def write(*result: FrameResult | EntryContent) -> None:
            ledger.append_all([*runs.take_marks(), *result])

        run = runs.start_run("S26-00123", "op7")
        write()
        for number in range(FRAMES):
            write(frame(number, run))
        write(Note(text="oil renewed <b>", by="op7"))
        runs.end_run()
        write()
        second = runs.start_run("S26-00124")
        write(frame(0, second))
    return archived(folder)


def archived(folder: Path) -> Path:
    """Bring the ledger in this folder to an archive beside it."""
    with closing(LedgerReader(folder / "ledger")) as ledger:
        rows = ledger.rows(0, 10_000)
    with closing(Store(folder / "archive.sqlite")) as store:
        store.store_messages(
            [Message("cells/v1/scope-1/result", r.data, False) for r in rows]
        )
    return folder / "archive.sqlite"


def history_of(
    folder: Path, result: Iterable[FrameResult | EntryContent]
) -> RunHistory:
    """Read back the history of a run with these rows."""
    runs = RunState()
    runs.start_run()
    with closing(Ledger(folder / "ledger", "scope-1")) as ledger:
        ledger.append_all([*runs.take_marks(), *result])
    with closing(Store(archived(folder))) as store:
        return read_run_history(store, list_runs(store)[0])


@pytest.fixture
def store(file: Path) -> Iterator[Store]:
    with closing(Store(file, must_exist=True)) as opened:
        yield opened


def test_runs_are_listed_from_start_to_end(store: Store) -> None:
    first, second = list_runs(store)

    assert (first.start.slide, first.start.operator) == ("S26-00123", "op7")
    assert (first.first, first.last, first.is_ended) == (1, FRAMES + 3, True)
    assert (second.first, second.last, second.is_ended) == (64, 65, False)


def test_a_run_is_found_by_how_its_id_begins(store: Store) -> None:
    first, second = list_runs(store)

    assert find_run(store, second.start.run) == second
    with pytest.raises(RunUnknown, match="2 runs begin with '20'"):
        find_run(store, "20")
    with pytest.raises(RunUnknown, match=first.start.run):
        find_run(store, "1999")


def test_a_history_has_counts_events_cells_and_gaps(store: Store) -> None:
    history = read_run_history(store, list_runs(store)[0])

    assert history.statuses == {"ok": FRAMES - len(GAP), "gap": len(GAP)}
    counts = history.counts["RBC"]
    shown = np.flatnonzero(np.isfinite(counts)) / len(counts) * FRAMES
    assert set(counts[np.isfinite(counts)]) == {2.0}
    assert len(shown) / len(counts) == pytest.approx(EXAMINED, abs=0.04)
    assert not ((shown > GAP.start) & (shown < GAP.stop - 1)).any()
    assert [e.onset for e in history.events.values()] == [ONSET]
    cell = history.cells[5]
    assert [share[1] > 0.5 for share in cell.probabilities].index(True) == ONSET - len(
        GAP
    )
    texts = [text for _, text in history.incidents]
    assert texts.count("gap: camera gone") == len(GAP)
    assert "note by op7: oil renewed <b>" in texts


def test_what_ends_with_another_run_is_not_in_its_history(tmp_path: Path) -> None:
    result = frame(ONSET + 2, None)
    over = [
        msgspec.structs.replace(event, phase="ended", reason="another run was started")
        for event in result.events
    ]
    first = msgspec.structs.replace(
        result,
        following=Following(continuity="new run", tracks=1, ended=(5,)),
        events=(),
    )
    late = msgspec.structs.replace(result, events=tuple(over))

    history = history_of(tmp_path, [first, late])

    assert len(over) == 1
    assert (history.events, history.cells) == ({}, {})


def test_a_page_shows_the_cell_over_time(store: Store, tmp_path: Path) -> None:
    page = write_run_page(tmp_path, read_run_history(store, list_runs(store)[0]))

    text = page.read_text("utf-8")
    assert "oil renewed &lt;b&gt;" in text
    assert "lysis" in text
    picture = cv2.imread(str(tmp_path / "figures" / "cell-5.png"))
    tiles = picture[40, : 12 * 80].reshape(12, 80, 3)[:, 20:60].mean(axis=(1, 2))
    seen = strip().frames
    assert np.abs(tiles[: len(seen)] - 4 * np.array(seen)).max() < 4
    ribbon = picture[-40, :, :]
    steady, lysis = ribbon[100], ribbon[900]
    assert steady.tolist() == [190, 190, 190]
    assert lysis.tolist() == [178, 114, 0]  # BGR
    assert (tmp_path / "figures" / "counts.png").exists()


def test_a_run_without_frames_has_a_page(tmp_path: Path) -> None:
    runs = RunState()
    runs.start_run()
    with closing(Ledger(tmp_path / "ledger", "scope-1")) as ledger:
        ledger.append_all(runs.take_marks())
    [row] = LedgerReader(tmp_path / "ledger").rows(0, 10)
    with closing(Store(tmp_path / "archive.sqlite")) as store:
        store.store_messages([Message("cells/v1/scope-1/result", row.data, False)])
        page = write_run_page(
            tmp_path / "page", read_run_history(store, list_runs(store)[0])
        )

    assert "not ended" in page.read_text("utf-8")


@pytest.mark.parametrize("days", [-3, 9000])
def test_a_clock_that_is_set_moves_nothing_on_the_page(
    tmp_path: Path, days: int
) -> None:
    result = [frame(number, None) for number in range(FRAMES)]
    for number in range(15, FRAMES):  # the time server answered
        utc = result[number].utc + timedelta(days=days)
        onset = {"onset_utc": utc - timedelta(minutes=number - ONSET)}
        events = [msgspec.structs.replace(e, **onset) for e in result[number].events]
        result[number] = msgspec.structs.replace(
            result[number], utc=utc, events=tuple(events)
        )

    history = history_of(tmp_path, result)

    assert history.seconds == pytest.approx(60 * (FRAMES - 1), abs=5)
    assert history.until == result[-1].utc
    filled = np.flatnonzero(np.isfinite(history.counts["RBC"]))
    assert len(filled) / len(history.counts["RBC"]) == pytest.approx(EXAMINED, abs=0.04)
    assert history.cells[5].seconds == sorted(history.cells[5].seconds)
    assert history.onsets[1] == pytest.approx(60 * ONSET, abs=5)


def test_a_device_that_counts_no_slides_hides_no_run(
    file: Path, tmp_path: Path
) -> None:
    (tmp_path / "archive.sqlite").write_bytes(file.read_bytes())
    with closing(Ledger(tmp_path / "ledger", "scope-1")) as ledger:
        ledger.append(frame(0, None))

    with closing(Store(archived(tmp_path))) as store:
        assert len(store.chains()) == 2
        assert len(list_runs(store)) == 2


def test_who_may_only_read_the_archive_reads_its_runs(
    file: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "folder" / "archive #1.sqlite"
    copy.parent.mkdir()
    copy.write_bytes(file.read_bytes())

    with closing(Store(copy, must_exist=True)) as store:
        assert len(list_runs(store)) == 2
        with pytest.raises(ArchiveFailed, match="readonly"):
            store.store_messages([Message("cells/v1/scope-1/result", b"{}", False)])


def test_another_database_is_refused_and_not_changed(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger", "scope-1")) as ledger:
        ledger.append(frame(0, None))
    [database] = (tmp_path / "ledger").glob("*.sqlite*")
    before = database.read_bytes()

    with pytest.raises(ArchiveFailed, match="no such table"):
        Store(database, must_exist=True)

    assert database.read_bytes() == before


def test_a_row_of_another_version_hides_no_run(file: Path, tmp_path: Path) -> None:
    mark = {"kind": "run", "phase": "start", "since": "a later version"}
    head = {"v": 1, "device": "scope-2", "epoch": "e", "seq": 1, "prev": "0" * 64}
    data = json.dumps(head | {"entry": mark}, separators=(",", ":")).encode()
    other = tmp_path / "archive.sqlite"
    other.write_bytes(file.read_bytes())
    with closing(Store(other)) as store:
        store.store_messages([Message("cells/v1/scope-2/result", data, False)])
        [first, second] = list_runs(store)
        store._db.execute(
            "UPDATE rows SET data = CAST('{\"v\":2}' AS BLOB) WHERE seq = 5"
        )

        history = read_run_history(store, first)

    assert first.start.slide == "S26-00123"
    assert history.unreadable == 1
    assert not second.is_ended


def test_a_run_of_many_gaps_and_many_frames_stays_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.archive.run_history._MAX_POINTS", 16)
    notes = [Note(text="so", by="op7")] * (MAX_INCIDENTS + 3)

    history = history_of(tmp_path, [*(frame(n, None) for n in range(FRAMES)), *notes])

    assert len(history.incidents) == MAX_INCIDENTS
    assert history.more_incidents == len(GAP) + 3
    cell = history.cells[5]
    assert 8 < len(cell.seconds) <= 17
    assert cell.seconds[0] < 70
    assert cell.seconds[-1] > 60 * (FRAMES - 8)


def test_all_classes_are_named_above_their_lines(tmp_path: Path) -> None:
    names = [f"class-{number:02d}" for number in range(10)]
    result = frame(0, None)
    counts = dict.fromkeys(names, 1)
    wide = history_of(tmp_path, [msgspec.structs.replace(result, counts=counts)])

    write_run_page(tmp_path / "all", wide)
    wide.counts.pop(names[-1])
    write_run_page(tmp_path / "less", wide)

    all_of_them, less = (
        cv2.imread(str(tmp_path / name / "figures" / "counts.png"))
        for name in ("all", "less")
    )
    assert np.not_equal(all_of_them, less).sum() > 100


@pytest.mark.parametrize(
    "slide", ["[/b]", "[link=file:///x]S26[/link]", "\x1b]0;x\x07"]
)
def test_what_a_device_calls_a_slide_cannot_command_the_terminal(
    store: Store, slide: str
) -> None:
    first, _ = list_runs(store)
    mark = msgspec.structs.replace(first.start, slide=slide)
    console = Console(force_terminal=True, width=200)

    with console.capture() as seen:
        console.print(runs_table([replace(first, start=mark)]))

    assert slide.replace("\x1b", "\\x1b").replace("\x07", "\\x07") in seen.get()
    assert "\x1b]" not in seen.get()


def test_the_command_lists_and_writes(file: Path, tmp_path: Path) -> None:
    listed = CliRunner().invoke(runs_command, ["--archive", str(file)])
    assert "S26-00124" in listed.output

    with closing(Store(file)) as store:
        run = list_runs(store)[0].start.run
    asked = [run, "--archive", str(file), "--out", str(tmp_path / "page")]
    written = CliRunner().invoke(runs_command, asked)
    assert written.exit_code == 0
    assert (tmp_path / "page" / "report.html").exists()

    absent = CliRunner().invoke(runs_command, ["--archive", str(tmp_path / "no")])
    assert isinstance(absent.exception, ArchiveFailed)
