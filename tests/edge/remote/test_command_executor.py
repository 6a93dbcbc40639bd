"""Requests from admission to the row that says what became of them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

import pytest

from edge.ledger.ledger_state import InboxPosition
from edge.ledger.reader import LedgerReader
from edge.ledger.writer import Ledger
from edge.monitoring.alarms import ALARM_KINDS
from edge.remote.admission import REFUSAL_BURST, Admission
from edge.remote.command_executor import LASTS_S, CommandExecutor
from edge.remote.inbox import MAX_WAITING_REQUESTS, Inbox, read_inbox
from edge.schema.entries import Alarm, Audit, EntryContent
from edge.schema.requests import COMMANDS, MAX_REQUEST_BYTES, CommandName, Request
from edge.settings.delivery import CommandSettings
from tests.asking import (
    DEVICE,
    START,
    Clock,
    NotingHandlers,
    audits_in,
    entries_in,
    message_of,
    notes_in,
    request_of,
)

ALL = CommandSettings(allow=COMMANDS)


class Killed(BaseException):
    """The process ends here, as a power cut would have it."""


class Site:
    """Both sides of a ledger folder; each can be ended and begun again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, Clock()
        self.handlers = NotingHandlers()
        self.kill_at: str | None = None
        self.begin_run()
        self.begin_publish()

    def begin_run(self, settings: CommandSettings = ALL) -> None:
        self.ledger = Ledger(self.folder, DEVICE)
        self.executor = CommandExecutor(
            self.folder,
            self.ledger.state,
            self.append,
            self.handlers.table,
            settings,
            utc=self.clock.utc,
            monotonic=self.clock.monotonic,
        )

    def begin_publish(self, settings: CommandSettings = ALL) -> None:
        self.reader = LedgerReader(self.folder)
        self.admission = Admission(
            self.folder,
            self.reader.state,
            settings,
            utc=self.clock.utc,
            monotonic=self.clock.monotonic,
        )

    def append(
        self, result: Sequence[EntryContent], taken: InboxPosition | None = None
    ) -> None:
        if self.kill_at == "before the row":
            raise Killed
        self.ledger.append_all(result, taken)
        if self.kill_at == "after the row":
            raise Killed

    def ask(self, name: str, request: Request | bytes, **changes: object) -> None:
        self.admission.take(*message_of(name, request, **changes))

    def step(self, steps: int = 1) -> None:
        for _ in range(steps):
            self.clock.move(0.3)
            self.executor.step()

    def end_run(self) -> None:
        self.ledger.close()

    def end(self) -> None:
        self.ledger.close()
        self.admission.close()
        self.reader.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    built = Site(tmp_path / "ledger")
    yield built
    built.end()


def test_a_request_has_its_effect_and_a_row_that_says_so(site: Site) -> None:
    site.ask("note", request_of(site.clock, "note", 1))
    site.ask("stop", request_of(site.clock, "stop", 2))
    site.step()

    assert notes_in(site.folder) == ["note 1"]
    assert site.handlers.did == ["stop"]
    result = [(a.name, a.outcome, a.by, a.client) for a in audits_in(site.folder)]
    assert result == [
        ("note", "done", "anna", "command-1"),
        ("stop", "done", "anna", "command-1"),
    ]
    assert site.reader.state.is_paused


def test_a_request_that_lasts_is_accepted_first_and_done_later(site: Site) -> None:
    request = request_of(site.clock, "snapshot", 1)
    site.ask("snapshot", request)
    site.step()
    assert [a.outcome for a in audits_in(site.folder)] == ["accepted"]

    site.handlers.lasting[request.id].set_result("kept")
    site.step()

    assert [a.outcome for a in audits_in(site.folder)] == ["accepted", "done"]
    assert audits_in(site.folder)[-1].text == "kept"


def test_a_request_that_never_ends_is_failed_in_time(site: Site) -> None:
    site.ask("snapshot", request_of(site.clock, "snapshot", 1))
    site.step()
    site.clock.move(LASTS_S["snapshot"] + 1)
    site.step()

    assert [a.outcome for a in audits_in(site.folder)] == ["accepted", "failed"]
    assert "30 s" in audits_in(site.folder)[-1].text


def test_what_cannot_be_done_is_failed_with_the_reason(site: Site) -> None:
    site.ask("self-test", request_of(site.clock, "self-test", 1))
    site.step()

    (audit,) = audits_in(site.folder)
    assert (audit.outcome, audit.text) == ("failed", "the engine is gone")


def refused(site: Site) -> Audit:
    """The one audit row there is; nothing has happened."""
    site.step()
    (audit,) = audits_in(site.folder)
    assert audit.outcome == "refused"
    assert notes_in(site.folder) == []
    assert site.handlers.did == []
    return audit


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not a valid"),
        (b"\xff\xfe{}", "not a valid"),
        (b"{}", "missing required field"),
        (b"[" * 4000, "not a valid"),
        (b"[" * 5000, f"at most {MAX_REQUEST_BYTES}"),
        (b'{"v":1,"v":1}', "twice"),
        (b'{"by":{"a":1,"a":NaN}}', "twice"),
    ],
)
def test_what_is_no_request_is_refused_and_written_down(
    site: Site, payload: bytes, reason: str
) -> None:
    site.ask("stop", payload)

    audit = refused(site)
    assert reason in audit.text
    assert audit.request is None
    assert audit.request_sha256 is not None


@pytest.mark.parametrize("name", ["reboot", "", "stop/x", "stop\x1b[2J", "x" * 500])
def test_an_unknown_command_is_refused(site: Site, name: str) -> None:
    site.ask(name, request_of(site.clock, "stop", 1))

    assert "no such command" in refused(site).text
    assert "\x1b" not in audits_in(site.folder)[0].name


def test_a_retained_request_is_refused(site: Site) -> None:
    site.ask("stop", request_of(site.clock, "stop", 1), is_retained=True)

    assert "retained" in refused(site).text


def test_deleting_a_retained_request_is_no_request(site: Site) -> None:
    site.ask("stop", b"", is_retained=True)
    site.step()

    assert entries_in(site.folder) == []


def test_a_request_with_another_correlation_is_refused(site: Site) -> None:
    request = request_of(site.clock, "stop", 1)
    site.ask("stop", request, correlation=b"another")
    assert "correlation" in refused(site).text

    site.ask("stop", request, correlation=request.id.encode())
    site.step()
    assert audits_in(site.folder)[-1].outcome == "done"


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_is_allowed_unless_the_settings_say_so(
    site: Site, name: CommandName
) -> None:
    site.admission.close()
    site.begin_publish(CommandSettings())
    site.ask(name, request_of(site.clock, name, 1))

    assert "not allowed" in refused(site).text


def test_the_run_process_refuses_by_its_own_settings(site: Site) -> None:
    """The publisher faces the network; it may have been taken over."""
    site.end_run()
    site.begin_run(CommandSettings(allow=("note",)))
    site.ask("stop", request_of(site.clock, "stop", 1))

    assert "not allowed" in refused(site).text


def test_a_request_that_expired_while_it_waited_is_refused(site: Site) -> None:
    site.ask("stop", request_of(site.clock, "stop", 1, lives_s=20))
    site.clock.move(21)

    assert "expired" in refused(site).text


@pytest.mark.parametrize("restarts", [False, True])
def test_a_replayed_request_is_refused_also_after_a_restart(
    site: Site, restarts: bool
) -> None:
    request = request_of(site.clock, "note", 1)
    site.ask("note", request)
    site.ask("note", request)  # waits still
    site.step(2)
    if restarts:
        site.end()
        site.begin_run()
        site.begin_publish()
    site.ask("note", request)
    site.step(2)

    assert notes_in(site.folder) == ["note 1"]
    outcomes = [a.outcome for a in audits_in(site.folder)]
    assert outcomes == ["done", "refused", "refused"]
    assert "replayed" in audits_in(site.folder)[-1].text


def test_what_the_inbox_repeats_is_done_once(site: Site) -> None:
    """A copy of the inbox, put back after its requests were taken over."""
    site.ask("note", request_of(site.clock, "note", 1))
    copy = (site.folder / "inbox.sqlite").read_bytes()
    site.step()
    site.admission.delete_taken()
    site.admission.close()
    (site.folder / "inbox.sqlite").write_bytes(copy)
    site.step()

    assert notes_in(site.folder) == ["note 1"]


def test_a_new_inbox_begins_to_count_again(site: Site) -> None:
    for number in range(3):
        site.ask("note", request_of(site.clock, "note", number))
    site.step()
    site.admission.close()
    (site.folder / "inbox.sqlite").unlink()
    site.begin_publish()
    site.ask("note", request_of(site.clock, "note", 9))
    site.step()

    assert notes_in(site.folder) == ["note 0", "note 1", "note 2", "note 9"]


def test_a_damaged_inbox_is_put_aside_and_requests_go_on(site: Site) -> None:
    site.ask("note", request_of(site.clock, "note", 1))
    site.step()
    site.admission.close()
    (site.folder / "inbox.sqlite").write_bytes(b"no database at all" * 500)
    site.step()  # the run process goes on
    site.begin_publish()
    site.ask("note", request_of(site.clock, "note", 2))
    site.step(5)

    assert (site.folder / "inbox.damaged").exists()
    assert notes_in(site.folder) == ["note 1", "note 2"]


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_a_reader_needs_no_right_to_write() -> None:
    """The run process reads what another user's publisher wrote."""
    with tempfile.TemporaryDirectory() as made:  # pytest's own is closed to others
        Path(made).chmod(0o755)
        site = Site(Path(made) / "ledger")
        _let_another_user_read(site)
        site.end()


def _let_another_user_read(site: Site) -> None:
    site.ask("note", request_of(site.clock, "note", 1))
    program = (
        "import os, sys; from pathlib import Path; "
        "from edge.remote.inbox import read_inbox; "
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); "
        "sys.exit(len(read_inbox(Path(sys.argv[1]))[1]))"
    )
    ended = subprocess.run([sys.executable, "-c", program, site.folder], check=False)
    assert ended.returncode == 1
    site.admission.close()
    ended = subprocess.run([sys.executable, "-c", program, site.folder], check=False)
    assert ended.returncode == 1


@pytest.mark.parametrize("name", ["note", "stop", "snapshot"])
@pytest.mark.parametrize("moment", ["before the row", "after the row"])
def test_a_process_that_dies_leaves_one_effect_or_a_row_that_says_none(
    site: Site, name: CommandName, moment: str
) -> None:
    site.ask(name, request_of(site.clock, name, 1))
    site.kill_at = moment
    with pytest.raises(Killed):
        site.step()
    site.kill_at = None
    site.end()
    site.begin_run()
    site.begin_publish()
    site.step(3)

    outcomes = [a.outcome for a in audits_in(site.folder)]
    if name == "note":
        assert notes_in(site.folder) == ["note 1"]
        assert outcomes == ["done"]
    elif name == "stop":
        assert site.reader.state.is_paused
        assert outcomes == ["done"]
    elif moment == "before the row":
        assert outcomes == ["accepted"]  # and it is at work in the new process
    else:
        assert outcomes == ["accepted", "failed"]
        assert "the process ended" in audits_in(site.folder)[-1].text


def test_what_is_handed_over_is_deleted_only_when_it_is_in_the_ledger(
    site: Site,
) -> None:
    site.ask("note", request_of(site.clock, "note", 1))
    site.admission.delete_taken()
    assert len(read_inbox(site.folder)[1]) == 1

    site.step()
    site.admission.delete_taken()
    assert read_inbox(site.folder)[1] == []


def test_a_flood_is_counted_and_does_not_fill_the_ledger(site: Site) -> None:
    for number in range(5000):
        site.ask("stop", b"%d" % number)
    site.step(20)
    assert len(audits_in(site.folder)) == REFUSAL_BURST

    site.clock.move(60)
    site.ask("stop", b"once more")
    site.step()

    last = audits_in(site.folder)[-1]
    assert last.unrecorded == 5000 - REFUSAL_BURST
    assert site.admission.unrecorded == 0


def test_a_flood_of_good_requests_is_slowed_down(site: Site) -> None:
    for number in range(12):
        site.ask("note", request_of(site.clock, "note", number))
    site.step(10)

    assert len(notes_in(site.folder)) == 10
    assert "too many requests" in audits_in(site.folder)[-1].text


def test_requests_do_not_pile_up_before_a_run_process_that_is_away(
    site: Site,
) -> None:
    for number in range(MAX_WAITING_REQUESTS + 4):
        site.ask("note", request_of(site.clock, "note", number))
        site.clock.move(2)

    waiting = [i for i in read_inbox(site.folder)[1] if i.name is not None]
    assert len(waiting) == MAX_WAITING_REQUESTS


def test_the_publisher_cannot_claim_what_only_the_run_process_knows(
    site: Site,
) -> None:
    inbox = Inbox(site.folder)
    alarm = Alarm(
        severity="red",
        code="disk-filling",
        text="",
        advice="",
        since=START,
        until=START,
    )
    for claim in (
        Audit(name="stop", request="request-00000001", outcome="done", text="done"),
        alarm,
    ):
        inbox.add_entry(claim)
    inbox._insert(None, None, None, b"nonsense")
    site.step()

    audits = audits_in(site.folder)
    assert [a.outcome for a in audits] == ["refused"] * 3
    assert not site.reader.state.is_paused
    inbox.close()


@pytest.mark.parametrize(
    ("client", "data"),
    [
        ("x" * 70, b"{}"),
        ("two\nlines", b"{}"),
        ("anna", b'{"' + b"k" * 3000 + b'":1}'),
    ],
)
def test_what_cannot_be_a_row_does_not_hold_up_what_waits_behind_it(
    site: Site, client: str, data: bytes
) -> None:
    inbox = Inbox(site.folder)
    inbox._insert("note", "request-00000001", client, data)
    inbox.close()
    site.ask("note", request_of(site.clock, "note", 2))
    site.step(3)

    assert notes_in(site.folder) == ["note 2"]
    assert [a.outcome for a in audits_in(site.folder)] == ["refused", "done"]


def test_of_two_who_wait_for_one_picture_that_never_comes_both_are_told(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture: Future[str] = Future()  # the next frame's, for all who ask
    monkeypatch.setitem(site.handlers.table, "snapshot", lambda request: picture)
    for number in (1, 2):
        site.ask("snapshot", request_of(site.clock, "snapshot", number))
        site.step()

    site.clock.move(LASTS_S["snapshot"])
    site.step(3)

    outcomes = [(a.request, a.outcome) for a in audits_in(site.folder)]
    assert ("request-00000001", "failed") in outcomes
    assert ("request-00000002", "failed") in outcomes


def test_an_alarm_of_the_publisher_becomes_a_row(site: Site) -> None:
    site.admission.hand_over(
        Alarm(
            severity="amber",
            code="archive-away",
            text="no archive listens",
            advice=ALARM_KINDS["archive-away"].advice,
            since=START,
        )
    )
    site.step()

    (alarm,) = site.reader.state.active_alarms()
    assert (alarm.code, alarm.row) == ("archive-away", 1)


def fill(disk: Path) -> None:
    with suppress(OSError):
        for number in range(10_000):
            (disk / f"filler-{number}").write_bytes(b"x" * 4096)


def test_requests_without_a_disk_are_counted_and_kill_nothing(
    site: Site, small_disk: Path
) -> None:
    ledger = Ledger(small_disk, DEVICE)
    reader = LedgerReader(small_disk)
    admission = Admission(small_disk, reader.state, ALL, utc=site.clock.utc)
    fill(small_disk)

    admission.take(*message_of("note", request_of(site.clock, "note", 1)))

    assert admission.unrecorded == 1
    reader.close()
    ledger.close()
