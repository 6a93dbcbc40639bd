from __future__ import annotations

import io
import re
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from edge.dashboard.observer import STALE_S, Observer, drift_text, gaps_text
from edge.dashboard.terminal import table
from edge.dashboard.web import page_data
from edge.ledger.reader import LedgerReader
from edge.ledger.writer import Ledger
from edge.monitoring.metrics import Metrics
from edge.mqtt import ARCHIVE_STATE, Message, topic
from edge.schema.codec import decode, encode
from edge.schema.entries import Alarm, Entry, RunMark
from edge.schema.messages import Ack, ArchiveState, DeviceState
from edge.schema.results import (
    ClassShare,
    Differential,
    Drift,
    FrameRange,
    Limits,
    Point,
    Result,
)
from tests.conftest import frame_result

DEVICE = "scope-01"
JPEG = b"\xff\xd8\xff and so on"


@pytest.fixture
def results(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("ledger")
    ledger = Ledger(folder, DEVICE)
    for _ in range(8):
        ledger.append(frame_result(cells=2))
    ledger.close()
    reader = LedgerReader(folder)
    rows = [row.data for row in reader.rows(0, 100)]
    reader.close()
    return rows


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def deliver(observer: Observer, name: str, payload: bytes) -> None:
    observer.handle(Message(topic(DEVICE, name), payload, is_retained=False))


def state(connection: int, what: str, epoch: str = "e") -> bytes:
    return encode(
        DeviceState(
            state=what,
            device=DEVICE,
            epoch=epoch,
            connection=connection,  # type: ignore[arg-type]
            oldest=1,
            seq=0,
            acknowledged=0,
            software="0",
        )
    )


def test_cells_are_counted_once_however_often_a_row_comes(results: list[bytes]) -> None:
    observer = Observer()
    for data in [*results[:4], *results[1:4], *results[4:]]:
        deliver(observer, "result", data)

    view = observer.devices[DEVICE]
    assert view.cells == {"RBC": 16}
    assert (view.rows, view.seq) == (8, 8)


def test_a_row_that_the_archive_has_is_not_missing(results: list[bytes]) -> None:
    """It went by while this screen was away, and is never sent again."""
    observer = Observer()
    for row in (*results[:2], *results[4:]):
        deliver(observer, "result", row)
    view = observer.devices[DEVICE]
    assert view.missing == {3, 4}

    ack = Ack(epoch=view.epoch, upto=3, hash="f" * 64, resume=False)
    deliver(observer, "ack", encode(ack))

    assert view.missing == {4}


def test_why_there_is_no_connection_is_shown_until_there_is_one() -> None:
    observer, page = Observer(), Console(file=io.StringIO(), width=80)
    observer.note_trouble("another screen uses the name wall", is_name_taken=True)
    observer.note_connected(is_steady=False)  # the other one will be back
    page.print(table(observer))
    assert page_data(observer)["trouble"] == "another screen uses the name wall"
    observer.note_connected(is_steady=True)

    assert "another screen uses the name wall" in page.file.getvalue()  # type: ignore[attr-defined]
    assert page_data(observer)["trouble"] == ""


def test_a_missing_row_shows_until_it_comes(results: list[bytes]) -> None:
    observer = Observer()
    for data in (results[0], results[1], results[4]):
        deliver(observer, "result", data)
    view = observer.devices[DEVICE]
    assert view.missing == {3, 4}

    for data in (results[2], results[3]):
        deliver(observer, "result", data)
    assert view.missing == set()
    assert view.cells == {"RBC": 10}
    assert view.last == decode(results[4], Result)  # what came late is not the newest


def test_old_values_are_never_shown_as_live(results: list[bytes]) -> None:
    clock = Clock()
    observer = Observer(clock)
    deliver(observer, "state", state(1, "online"))
    deliver(observer, "result", results[0])
    view = observer.devices[DEVICE]
    assert not view.is_stale(clock.now_s + STALE_S - 1)
    assert view.is_stale(clock.now_s + STALE_S + 1)

    deliver(observer, "state", state(1, "offline"))
    assert view.is_stale(clock.now_s)


def test_a_late_will_of_an_earlier_connection_is_ignored() -> None:
    observer = Observer()
    deliver(observer, "state", state(5, "online"))
    deliver(observer, "state", state(4, "offline"))

    assert observer.devices[DEVICE].state == "online"


def test_a_device_that_lost_its_count_of_connections_is_believed() -> None:
    observer = Observer()
    deliver(observer, "state", state(5, "offline"))
    deliver(observer, "state", state(2, "online"))
    assert observer.devices[DEVICE].state == "online"

    deliver(observer, "state", state(1, "offline"))  # the late will of an earlier one
    assert observer.devices[DEVICE].state == "online"
    deliver(observer, "state", state(2, "offline"))
    assert observer.devices[DEVICE].state == "offline"


def test_the_archives_state_is_kept_apart_from_devices() -> None:
    observer = Observer()
    observer.handle(
        Message(ARCHIVE_STATE, encode(ArchiveState(state="online")), is_retained=True)
    )

    assert observer.archive_state == "online"
    assert observer.devices == {}


def test_a_new_ledger_is_believed_although_its_connections_start_again() -> None:
    observer = Observer()
    deliver(observer, "state", state(5, "online"))
    deliver(observer, "state", state(1, "online", epoch="f"))
    deliver(observer, "state", state(5, "offline"))  # the old ledger's late will

    assert observer.devices[DEVICE].state == "online"
    deliver(observer, "state", state(1, "offline", epoch="f"))
    assert observer.devices[DEVICE].state == "offline"


def test_an_acknowledgement_of_an_older_ledger_is_not_shown() -> None:
    observer = Observer()
    deliver(observer, "state", state(1, "online"))
    for epoch, upto in (("e", 95), ("old", 500_000)):
        ack = Ack(epoch=epoch, upto=upto, hash="0" * 64, resume=True)
        deliver(observer, "ack", encode(ack))

    assert observer.devices[DEVICE].acknowledged == 95


def test_a_device_cannot_speak_as_another(results: list[bytes]) -> None:
    observer = Observer()
    for name, data in (("result", results[0]), ("state", state(1, "online"))):
        observer.handle(Message(topic("scope-02", name), data, is_retained=False))

    assert observer.ignored == 2
    assert observer.devices == {}


def test_a_message_cannot_command_the_terminal(results: list[bytes]) -> None:
    observer = Observer()
    row = msgspec.structs.replace(
        decode(results[0], Result), status="degraded", reason="\x1b]0;owned\x07\x1b[2J"
    )
    deliver(observer, "result", encode(row))
    console = Console(record=True, width=200, file=io.StringIO())

    console.print(table(observer))

    shown = console.export_text(styles=False)
    assert "\x1b" not in shown
    assert "owned" in shown


@pytest.mark.parametrize("seq", ["", "x", "-1", "1" * 5000])
def test_a_preview_of_no_row_is_ignored(seq: str) -> None:
    observer = Observer()
    name = topic(DEVICE, "preview")
    observer.handle(Message(name, JPEG, False, (("seq", seq),)))
    assert observer.devices == {}

    observer.handle(Message(name, JPEG, False, (("seq", "7"),)))
    assert observer.devices[DEVICE].preview_seq == 7


@pytest.mark.parametrize("name", ["result", "state", "ack"])
@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b"\xff", b'{"seq":1e999}'])
def test_nonsense_is_counted_and_changes_nothing(name: str, payload: bytes) -> None:
    observer = Observer()

    deliver(observer, name, payload)

    assert observer.ignored == 1
    assert observer.devices == {}


RUN, NEXT = "20260101T120000Z-0000ab", "20260101T130000Z-0000cd"


def counted(seq: int, total: int, since: datetime | None = None) -> bytes:
    """A row that has counted so many red cells."""
    share = Limits(share=0.9, low=0.85, high=0.94)
    text = Differential(
        of="all cells",
        total=total,
        unidentified=2,
        classes=(ClassShare(label="RBC", count=total, exact=share, more=40),),
        wanted_width=0.05,
        patches=1,
        since=since,
    )
    one = frame_result(run=RUN, differential=text)
    fields = {f: getattr(one, f) for f in one.__struct_fields__}
    ledger = {"device": DEVICE, "epoch": "e", "seq": seq, "prev": "0" * 64}
    return encode(Result(**fields, **ledger))


def marked(seq: int, mark: RunMark) -> bytes:
    """A row that starts or ends a run."""
    return encode(
        Entry(
            device=DEVICE,
            epoch="e",
            seq=seq,
            prev="0" * 64,
            utc=datetime(2026, 1, 1, tzinfo=timezone.utc),
            monotonic_ns=1,
            boot_id="b",
            clock_synchronised=True,
            software="0",
            entry=mark,
        )
    )


@pytest.mark.parametrize("name", ["[/b]", "[link=file:///x]RBC[/link]"])
def test_the_name_of_a_slide_or_a_class_cannot_set_the_table(name: str) -> None:
    observer = Observer()
    deliver(observer, "state", state(1, "online"))
    deliver(observer, "result", marked(1, RunMark(run=RUN, phase="start", slide=name)))
    deliver(observer, "result", counted(2, 50))
    (view,) = observer.devices.values()
    assert view.differential is not None
    one = msgspec.structs.replace(view.differential.classes[0], label=name)
    view.differential = msgspec.structs.replace(view.differential, classes=(one,))
    console = Console(record=True, width=200, file=io.StringIO())

    console.print(table(observer))

    assert console.export_text().count(name) == 2


def test_the_running_differential_is_shown_with_limits_and_rate() -> None:
    clock = Clock()
    observer = Observer(clock)
    start = RunMark(run=RUN, phase="start", slide="S26-1", operator="op7")
    deliver(observer, "state", state(1, "online"))
    deliver(observer, "result", marked(1, start))
    for seq in range(2, 8):
        deliver(observer, "result", counted(seq, 50 * seq))
        clock.now_s += 10
    console = Console(record=True, width=200, file=io.StringIO())

    console.print(table(observer))

    shown = console.export_text(styles=False)
    view = observer.devices[DEVICE]
    assert view.counted_per_min(clock.now_s) == pytest.approx(250)
    assert "slide S26-1 by op7, 350 of all cells, 2 unidentified" in shown
    assert re.search(r"RBC .* 350 .* 90.0 % .* 85.0 to 94.0 % .* 40", shown)


def test_a_resumed_run_is_shown_with_its_slide_and_since_when_it_counts() -> None:
    observer = Observer(Clock())
    since = datetime(2026, 1, 1, 14, 5, tzinfo=timezone.utc)
    goes_on = RunMark(run=RUN, phase="resumed", slide="S26-1", operator="op7")
    deliver(observer, "result", marked(1, goes_on))
    deliver(observer, "result", counted(2, 50, since))
    console = Console(record=True, width=200, file=io.StringIO())

    console.print(table(observer))

    shown = " ".join(console.export_text(styles=False).split())
    assert "slide S26-1 by op7, 50 of all cells" in shown
    assert "since 14:05 UTC: resumed" in shown


def test_silence_until_the_next_planned_point_is_not_stale() -> None:
    clock = Clock()
    observer = Observer(clock)
    deliver(observer, "state", state(1, "online"))
    utc = datetime(2026, 1, 1, tzinfo=timezone.utc)
    point = Point(index=3, due=utc, late_ms=4.0, next_s=60.0)
    one = frame_result(run=RUN, point=point)
    fields = {f: getattr(one, f) for f in one.__struct_fields__}
    ledger = {"device": DEVICE, "epoch": "e", "seq": 1, "prev": "0" * 64}
    deliver(observer, "result", encode(Result(**fields, **ledger)))
    view = observer.devices[DEVICE]

    clock.now_s += 65
    assert not view.is_stale(clock.now_s)
    clock.now_s += 10
    assert view.is_stale(clock.now_s)


def test_another_slide_shows_nothing_of_the_one_before() -> None:
    observer = Observer(Clock())
    deliver(observer, "result", counted(1, 500))
    start = RunMark(run=NEXT, phase="start", slide="S26-2")
    for seq, mark in ((2, RunMark(run=RUN, phase="end")), (3, start)):
        deliver(observer, "result", marked(seq, mark))

    view = observer.devices[DEVICE]
    assert view.differential is None
    assert view.start == start
    assert view.counted_per_min(200.0) is None


def metrics(newest: int) -> bytes:
    return encode(
        Metrics(
            device=DEVICE,
            utc=datetime(2026, 1, 1, tzinfo=timezone.utc),
            newest=newest,
            acknowledged=0,
            backlog=newest,
            run=None,
        )
    )


def test_what_comes_late_is_not_live(results: list[bytes]) -> None:
    """Rows of days ago, sent when the broker is back, look like news."""
    clock = Clock()
    observer = Observer(clock)
    deliver(observer, "state", state(1, "online"))
    deliver(observer, "metrics", metrics(newest=8))
    clock.now_s += 4
    for data in results[:7]:
        deliver(observer, "result", data)
    view = observer.devices[DEVICE]
    assert view.is_stale(clock.now_s)
    assert view.state_text(clock.now_s) == "1 rows behind"

    deliver(observer, "result", results[7])
    assert not view.is_stale(clock.now_s)
    assert view.state_text(clock.now_s) == "online"


def test_nothing_is_live_without_a_broker_or_while_stopped(
    results: list[bytes],
) -> None:
    clock = Clock()
    observer = Observer(clock)
    deliver(observer, "state", state(1, "online"))
    deliver(observer, "result", results[0])
    view = observer.devices[DEVICE]
    assert not view.is_stale(clock.now_s)

    observer.mark_unreachable()
    assert view.is_stale(clock.now_s)
    assert view.state_text(clock.now_s) == "unreachable"
    deliver(observer, "state", state(1, "online"))  # retained, at the next connection
    assert not view.is_stale(clock.now_s)
    paused = msgspec.structs.replace(
        decode(state(1, "online"), DeviceState), is_paused=True
    )
    deliver(observer, "state", encode(paused))
    assert view.is_stale(clock.now_s)
    assert view.state_text(clock.now_s) == "stopped by command"


def test_a_gap_is_no_sign_of_life(tmp_path: Path) -> None:
    clock = Clock()
    observer = Observer(clock)
    ledger = Ledger(tmp_path, DEVICE)
    rows = [ledger.append(frame_result()), ledger.append(frame_result(status="gap"))]
    ledger.close()
    deliver(observer, "state", state(1, "online"))
    deliver(observer, "result", rows[0].data)
    clock.now_s += STALE_S + 1
    deliver(observer, "result", rows[1].data)

    assert observer.devices[DEVICE].is_stale(clock.now_s)
    assert observer.devices[DEVICE].status == "gap"


def test_alarms_are_shown_until_they_are_over(tmp_path: Path) -> None:
    observer = Observer()
    ledger = Ledger(tmp_path, DEVICE)
    begun = Alarm(
        severity="red",
        code="no-frames",
        text="no frame\x1b[2J",
        advice="check the cable",
        since=datetime(2026, 1, 1, tzinfo=timezone.utc),
    )
    rows = [
        ledger.append(begun),
        ledger.append(msgspec.structs.replace(begun, until=begun.since)),
    ]
    ledger.close()
    deliver(observer, "alarm", rows[0].data)
    view = observer.devices[DEVICE]
    assert set(view.alarms) == {"no-frames"}
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(table(observer))
    shown = console.export_text(styles=False)
    assert "red alarm no-frames since 2026-01-01 00:00:00 UTC: no frame" in shown
    assert "\x1b" not in shown

    deliver(observer, "alarm", rows[1].data)
    assert view.alarms == {}
    for row in rows:  # also rows: counted, none of them missing
        deliver(observer, "result", row.data)
    assert (view.rows, view.seq, view.missing) == (2, 2, set())


@pytest.mark.parametrize("name", ["result", "ack", "metrics", "alarm"])
def test_what_is_retained_may_be_of_any_time(results: list[bytes], name: str) -> None:
    observer = Observer()
    ack = Ack(epoch="e", upto=1, hash="0" * 64, resume=False)
    payload = {"result": results[0], "ack": encode(ack), "metrics": metrics(1)}.get(
        name, results[0]
    )
    observer.handle(Message(topic(DEVICE, name), payload, is_retained=True))

    assert (observer.ignored, observer.devices) == (1, {})


def test_what_is_kept_stays_small(results: list[bytes]) -> None:
    observer = Observer()
    row = decode(results[0], Result)
    for number in range(1, 200):
        counts = {f"label {number} {n}": 1 for n in range(50)}
        leap = msgspec.structs.replace(row, seq=number * 10**9, counts=counts)
        deliver(observer, "result", encode(leap))
    for number in range(1500):
        name = f"scope-{number}"
        message = msgspec.structs.replace(
            decode(state(1, "online"), DeviceState), device=name
        )
        observer.handle(Message(topic(name, "state"), encode(message), True))

    view = observer.devices[DEVICE]
    assert len(view.missing) <= 10_000
    assert len(view.cells) <= 64
    assert len(observer.devices) <= 1000


@pytest.mark.parametrize("device", ["<b>", "archive", "A", "x" * 40, ""])
def test_a_device_that_cannot_be_is_not_shown(device: str) -> None:
    observer = Observer()
    ack = encode(Ack(epoch="e", upto=1, hash="0" * 64, resume=False))
    observer.handle(Message(topic(device, "ack"), ack, False))

    assert observer.devices == {}


def gap(seq: int, missed: int | None) -> bytes:
    return row_with(
        seq, cells=0, status="gap", frame=FrameRange(first=9, last=9, missed=missed)
    )


def row_with(seq: int, **changes: object) -> bytes:
    """A row in the chain of nobody."""
    one = frame_result(**changes)  # type: ignore[arg-type]
    fields = {f: getattr(one, f) for f in one.__struct_fields__}
    ledger = {"device": DEVICE, "epoch": "e", "seq": seq, "prev": "0" * 64}
    return encode(Result(**fields, **ledger))


def shown(observer: Observer) -> str:
    console = Console(record=True, width=250, file=io.StringIO())
    console.print(table(observer))
    return console.export_text(styles=False)


def test_gaps_are_counted_once_with_the_frames_that_are_known_to_be_lost() -> None:
    observer = Observer()
    for data in (
        gap(1, 40),
        gap(2, None),
        gap(1, 40),
        row_with(3),
        gap(5, 2),
        gap(4, 3),
    ):
        deliver(observer, "result", data)

    view = observer.devices[DEVICE]
    assert (view.gaps, view.lost) == (4, 45)
    assert gaps_text(view) == "4, 45 frames"
    assert "4, 45 frames" in shown(observer)


def test_drift_is_said_with_its_figure_and_never_as_live_when_stale() -> None:
    clock = Clock()
    observer = Observer(clock)
    deliver(observer, "state", state(1, "online"))
    view = observer._view(DEVICE)
    assert drift_text(view, clock.now_s) == "unknown"
    for seq, drift, text in (
        (1, Drift(status="good", background=0.4), "good"),
        (
            2,
            Drift(status="amber", of="red_cells", advice="see", red_cells=7.25),
            "amber: red_cells ΔE 7.2",
        ),
        (
            3,
            Drift(status="red", of="focus", advice="focus", sharpness=0.28),
            "red: focus 28 % as sharp",
        ),
    ):
        deliver(observer, "result", row_with(seq, drift=drift))
        assert drift_text(view, clock.now_s) == text
    deliver(observer, "result", gap(4, 1))  # says nothing of the light
    assert drift_text(view, clock.now_s) == "red: focus 28 % as sharp"

    assert drift_text(view, clock.now_s + STALE_S + 1) == "was red: focus 28 % as sharp"
    assert "STALE" in shown(observer)  # by the real clock, long ago


def test_a_differential_of_a_device_that_is_gone_says_so() -> None:
    observer = Observer()
    deliver(observer, "state", state(1, "online"))
    deliver(observer, "result", counted(1, 50))
    assert f"{DEVICE}: run {RUN}, 50 of all cells" in shown(observer)

    deliver(observer, "state", state(1, "offline"))

    assert f"{DEVICE}, STALE: run {RUN}" in shown(observer)


def test_the_table_fits_into_eighty_columns() -> None:
    clock = Clock()
    observer = Observer(clock)
    deliver(observer, "state", state(1, "online"))
    drift = Drift(status="amber", of="background", advice="see", background=2.5)
    deliver(observer, "result", gap(1, 45))
    deliver(observer, "result", row_with(2, drift=drift))
    console = Console(record=True, width=80, file=io.StringIO())

    console.print(table(observer))

    text = console.export_text(styles=False)
    for word in ("device", "archived", "missing", "drift", DEVICE, "STALE"):
        assert word in text  # nothing is cut to "dev…"
    assert "…" not in text
    assert "in all frames RBC 3 (100.0 %)" in text
