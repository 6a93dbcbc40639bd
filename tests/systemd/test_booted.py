"""The units on a real systemd, in order. `systemd/boot-test.sh` boots one for this."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.ledger.writer import Ledger
from edge.remote.client import new_request, send_request
from edge.settings.delivery import BrokerSettings
from tests.conftest import frame_result

pytestmark = pytest.mark.skipif(
    os.environ.get("HEMASCOPE_BOOTED") != "1",
    reason="needs a booted system of its own: make boot-test",
)

SYSTEMD = Path(__file__).parents[2] / "systemd"
ETC, LEDGER = Path("/etc/hemascope"), Path("/var/lib/hemascope/ledger")
ARCHIVE = Path("/var/lib/hemascope-archive/archive.sqlite")
HEMASCOPE = "/opt/hemascope/bin/hemascope"
RUN, PUBLISH, STORE = "hemascope-run", "hemascope-publish", "hemascope-archive"
DEVICE_TOML = """
device = "scope-01"
[source]
kind = "simulated"
width_px = 320
height_px = 240
rate_hz = 5.0
[ledger]
folder = "/var/lib/hemascope/ledger"
[run]
workers = 1
most_frame_s = 4.0
[commands]
allow = ["note"]
"""
BROKER_TOML = """
[broker]
host = "localhost"
port = 8883
ca = "/etc/hemascope/ca.pem"
username = "{user}"
password_file = "/run/credentials/{unit}.service/password"
"""
OPERATORS_PASSWORD = Path("/root/operator")
SHORT_WATCHDOG = "[Service]\nWatchdogSec=6\n"


def do(*words: str | Path) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def show(unit: str, key: str) -> str:
    return do("systemctl", "show", "--property", key, "--value", unit)


def wait_until(is_true: Callable[[], object], within_s: float, what: str) -> float:
    """How long it took, in seconds."""
    since_s = time.monotonic()
    while not is_true():
        if time.monotonic() - since_s > within_s:
            units = "\n".join(f"{u}: {show(u, 'StatusText')}" for u in (RUN, PUBLISH))
            log = do("journalctl", "--no-pager", "-n", "40")
            pytest.fail(f"not within {within_s} s: {what}\n{units}\n{log}")
        time.sleep(0.1)
    return time.monotonic() - since_s


def is_up(unit: str) -> bool:
    return show(unit, "ActiveState") == "active"


def restarts(unit: str) -> int:
    return int(show(unit, "NRestarts"))


def rows(after: int = 0) -> list[dict[str, object]]:
    db = sqlite3.connect(f"{(LEDGER / 'ledger.sqlite').as_uri()}?mode=ro", uri=True)
    query = "SELECT data FROM rows WHERE seq > ? ORDER BY seq"
    found = [json.loads(data) for (data,) in db.execute(query, (after,))]
    db.close()
    return found


def newest() -> int:
    return len(rows())


def archived() -> int:
    db = sqlite3.connect(f"{ARCHIVE.as_uri()}?mode=ro", uri=True)
    (count,) = db.execute("SELECT count(*) FROM rows").fetchone()
    db.close()
    return int(count)


def reasons(after: int) -> str:
    return "\n".join(str(row["reason"]) for row in rows(after) if row.get("reason"))


def await_rows(more: int = 3) -> None:
    since = newest()
    wait_until(lambda: newest() >= since + more, 60, "more rows")


def await_delivery() -> None:
    wanted = newest()
    wait_until(lambda: archived() >= wanted, 60, f"{wanted} rows in the archive")


def put_settings(text: str = DEVICE_TOML) -> None:
    broker = BROKER_TOML.format(user="scope-01", unit=PUBLISH)
    (ETC / "device.toml").write_text(text + broker)


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    """What README.md says, once; a ledger of another user is there already."""
    ledger = Ledger(LEDGER, "scope-01")
    ledger.append(frame_result())
    ledger.close()
    (LEDGER / "ledger.sqlite").chmod(0o640)
    OPERATORS_PASSWORD.write_text("secret of operator")
    output = do(SYSTEMD / "install.sh", "device", "archive", "broker")
    assert f"{ETC}/credentials/password is missing" in output
    certificates = Path("/root/certificates")
    make = SYSTEMD / "mosquitto" / "make-certificates.sh"
    do(make, certificates, "broker", "localhost")
    do("install", "-m", "644", certificates / "ca.pem", ETC / "ca.pem")
    for file in ("broker.pem", "broker.key"):
        target = Path("/etc/mosquitto/certs") / file
        do("install", "-m", "640", "-g", "mosquitto", certificates / file, target)
    passwords = Path("/etc/mosquitto/hemascope.passwd")
    do("mosquitto_passwd", "-b", passwords, "operator", OPERATORS_PASSWORD.read_text())
    for user, secret in (("scope-01", "password"), ("archive", "archive-password")):
        do("mosquitto_passwd", "-b", passwords, user, f"secret of {user}")
        path = ETC / "credentials" / secret
        path.write_text(f"secret of {user}\n")
        path.chmod(0o600)
    put_settings()
    (ETC / "archive.toml").write_text(
        f'[archive]\nfile = "{ARCHIVE}"\n'
        + BROKER_TOML.format(user="archive", unit=STORE)
    )
    again = do(SYSTEMD / "install.sh", "device", "archive", "broker")
    assert f"{ETC}/device.toml stays as it is" in again
    do("systemctl", "restart", "mosquitto")


def test_all_units_start_and_say_how_they_are() -> None:
    took_s = {}
    for unit in (STORE, RUN, PUBLISH):
        since_s = time.monotonic()
        do("systemctl", "start", unit)  # returns when the unit says READY
        took_s[unit] = round(time.monotonic() - since_s, 1)
        assert is_up(unit)
    print(took_s)  # noqa: T201
    await_rows()
    await_delivery()
    wait_until(lambda: "row " in show(RUN, "StatusText"), 10, "status of run")
    wait_until(lambda: "archived" in show(PUBLISH, "StatusText"), 10, "of publish")
    assert restarts(RUN) == restarts(PUBLISH) == restarts(STORE) == 0


def doctor(*only: str) -> dict[str, list[tuple[str, str]]]:
    """What doctor says of this system, by name: status and what was found."""
    words = [HEMASCOPE, "doctor", "--json", *(f"--only={name}" for name in only)]
    done = subprocess.run(words, capture_output=True, check=False)
    found: dict[str, list[tuple[str, str]]] = {}
    for one in json.loads(done.stdout)["findings"]:
        output = f"{one['found']} -> {one['remedy']}"
        found.setdefault(one["name"], []).append((one["status"], output))
    return found


def test_doctor_finds_no_fault_and_disturbs_nobody() -> None:
    found = doctor()
    await_rows()
    await_delivery()

    output = [(name, *one) for name, all_of in found.items() for one in all_of]
    assert [one for one in output if one[1] == "fault"] == []
    assert f"run (process {show(RUN, 'MainPID')}) has it" in str(found["camera"])
    connected = f"publish (process {show(PUBLISH, 'MainPID')}) is connected"
    assert connected in str(found["broker"])
    assert restarts(RUN) == restarts(PUBLISH) == 0
    for path in LEDGER.iterdir():
        assert path.owner() in (RUN, PUBLISH), path


def test_doctor_logs_in_with_the_units_password_while_publish_is_stopped() -> None:
    do("systemctl", "stop", PUBLISH)
    found = doctor("broker", "ledger")
    do("systemctl", "start", PUBLISH)

    assert "lets 'scope-01' in, its topics are allowed" in str(found["broker"])
    assert found["archive"][0] == ("ok", "it listens -> None")
    assert "nobody publishes" in str(found["ledger"])
    await_delivery()


def test_a_slide_with_a_number_is_run_by_hand_as_the_guide_says() -> None:
    do("systemctl", "stop", RUN)
    after = newest()
    words = ["runuser", "-u", RUN, "-g", "hemascope", "-G", "video", "-G", "render"]
    words += ["--", HEMASCOPE, "run", "--config", str(ETC / "device.toml")]
    do(*words, "--slide", "S26-00123", "--operator", "op7", "--frames", "3")
    copy = do(HEMASCOPE, "backup", LEDGER / "ledger.sqlite", "/root/copy.sqlite")
    do("systemctl", "start", RUN)

    marks = [row["entry"] for row in rows(after) if "entry" in row]
    runs = [m for m in marks if isinstance(m, dict) and m.get("slide") == "S26-00123"]
    assert [mark["phase"] for mark in runs] == ["start"]
    assert "all intact" in copy
    await_rows()
    await_delivery()
    for path in LEDGER.iterdir():
        assert path.owner() in (RUN, PUBLISH), path


def test_a_lost_archive_is_restored_as_the_guide_says() -> None:
    copy = Path("/root/archive.sqlite")
    output = do(HEMASCOPE, "backup", ARCHIVE, copy)  # while it is at work
    held = archived()
    await_rows()
    await_delivery()
    do("systemctl", "stop", STORE)
    lost = ARCHIVE.parent / "lost"
    lost.mkdir()
    for path in ARCHIVE.parent.glob("archive.sqlite*"):
        path.rename(lost / path.name)
    do("install", "-o", STORE, "-g", STORE, "-m", "600", copy, ARCHIVE)
    verify = ["archive", "--config", ETC / "archive.toml", "--verify"]
    verified = do(HEMASCOPE, *verify)
    do("systemctl", "start", STORE)

    await_rows()
    await_delivery()
    assert "all intact" in output
    assert "rows, intact" in verified
    assert archived() > held
    for path in ARCHIVE.parent.glob("archive.sqlite*"):
        assert path.owner() == STORE, path


def test_a_new_password_is_taken_as_the_guide_says() -> None:
    passwords = Path("/etc/mosquitto/hemascope.passwd")
    do("mosquitto_passwd", "-b", passwords, "scope-01", "another")
    do("systemctl", "kill", "--signal=HUP", "mosquitto")  # as reload, without procps
    path = ETC / "credentials" / "password"
    path.write_text("another\n")
    do("systemctl", "restart", PUBLISH)

    await_rows()
    await_delivery()


def test_each_process_is_a_user_of_its_own_without_capabilities() -> None:
    for unit in (STORE, RUN, PUBLISH):
        status = Path(f"/proc/{show(unit, 'MainPID')}/status").read_text()
        uid = pwd.getpwnam(unit).pw_uid
        assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}" in status
        for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert f"{kind}:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status


def test_run_has_no_network_and_the_others_have() -> None:
    def sockets(unit: str) -> int:
        pid = show(unit, "MainPID")
        return os.stat(f"/proc/{pid}/ns/net").st_ino  # noqa: PTH116

    ours = os.stat("/proc/self/ns/net").st_ino  # noqa: PTH116
    assert sockets(RUN) != ours
    assert sockets(PUBLISH) == sockets(STORE) == ours


def test_secrets_are_seen_by_their_service_alone() -> None:
    def can_read(user: str, path: Path) -> bool:
        words = ["runuser", "-u", user, "--", "cat", str(path)]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    used = Path(f"/run/credentials/{PUBLISH}.service/password")
    assert can_read(PUBLISH, used)
    assert not can_read(RUN, used)
    assert not can_read(STORE, used)
    for user in (RUN, PUBLISH, STORE):
        assert not can_read(user, ETC / "credentials" / "password")
    assert not can_read(PUBLISH, ARCHIVE)
    assert not can_read(STORE, LEDGER / "ledger.sqlite")


def test_results_still_know_the_boot_and_the_clock() -> None:
    row = rows()[-1]

    assert row["boot_id"] == os.environ["HEMASCOPE_HOST_BOOT"]
    host = os.environ["HEMASCOPE_HOST_SYNCHRONISED"] == "True"
    assert row["clock_synchronised"] is host


def test_an_operator_may_ask_what_the_settings_allow() -> None:
    """The request goes from the broker to one user and from there to the other."""
    broker = BrokerSettings(
        host="localhost",
        port=8883,
        ca=ETC / "ca.pem",
        username="operator",
        password_file=OPERATORS_PASSWORD,
    )

    answers = send_request(
        broker,
        "scope-01",
        "note",
        new_request("note", "somebody", "from the broker"),
        timeout_s=20,
    )
    assert [answer.outcome for answer in answers][-1] == "done"
    wait_until(lambda: "from the broker" in str(rows()), 10, "the note is a row")
    refused = send_request(
        broker, "scope-01", "stop", new_request("stop", "x"), timeout_s=20
    )
    assert [answer.outcome for answer in refused][-1] == "refused"


@pytest.mark.parametrize("unit", [RUN, PUBLISH, STORE])
def test_who_is_killed_comes_back(unit: str) -> None:
    before, seen = restarts(unit), newest()
    do("systemctl", "kill", "--signal=SIGKILL", "--kill-whom=main", unit)

    took_s = wait_until(
        lambda: restarts(unit) == before + 1 and is_up(unit), 60, "is back"
    )

    print(f"{unit}: back after {took_s:.1f} s")  # noqa: T201
    await_rows()
    await_delivery()
    if unit == RUN:
        assert "acquisition stopped: it was killed" in reasons(seen)


@pytest.mark.parametrize("unit", [RUN, PUBLISH, STORE])
def test_who_hangs_is_ended_and_comes_back(unit: str) -> None:
    drop_in = Path(f"/etc/systemd/system/{unit}.service.d/watchdog.conf")
    drop_in.parent.mkdir(exist_ok=True)
    drop_in.write_text(SHORT_WATCHDOG)
    do("systemctl", "daemon-reload")
    do("systemctl", "restart", unit)
    seen = newest()
    time.sleep(8)  # longer than the watchdog's interval: fed, it does nothing
    assert restarts(unit) == 0
    do("systemctl", "kill", "--signal=SIGSTOP", "--kill-whom=main", unit)

    took_s = wait_until(lambda: restarts(unit) == 1 and is_up(unit), 60, "is back")

    print(f"{unit}: back after {took_s:.1f} s")  # noqa: T201
    log = do("journalctl", "--no-pager", "-u", unit)
    assert "Watchdog timeout" in log
    assert "most recent call first" in log  # where the threads were
    await_rows()
    await_delivery()
    if unit == RUN:
        assert "acquisition stopped: it hung" in reasons(seen)


def test_publish_delivers_without_run_and_run_then_writes_again() -> None:
    """SQLite's index belongs to who opens first; the other must be able to write it.

    Root keeps off the ledger meanwhile: SQLite gives its index to the file's owner.
    """
    do("systemctl", "stop", PUBLISH)
    await_rows()
    wanted = newest()
    do("systemctl", "stop", RUN)
    do("systemctl", "start", PUBLISH)
    wait_until(lambda: archived() >= wanted, 60, "the archive has them")
    assert (LEDGER / "ledger.sqlite-shm").owner() == PUBLISH

    do("systemctl", "start", RUN)

    await_rows()
    await_delivery()


def test_a_wrong_setting_is_not_tried_again_and_somebody_is_told() -> None:
    do("systemctl", "stop", RUN)
    seen = newest()
    put_settings("nonsense = 1\n" + DEVICE_TOML)
    begun = subprocess.run(["systemctl", "start", RUN], check=False)
    assert begun.returncode != 0
    time.sleep(6)  # three times RestartSec

    assert show(RUN, "ActiveState") == "failed"
    assert show(RUN, "ExecMainStatus") == "78"
    assert restarts(RUN) == 0
    log = do("journalctl", "--no-pager", "--identifier=hemascope", "--priority=alert")
    assert "hemascope-run.service has failed and will not be started again" in log
    assert "it gave up (systemd: exit-code, exited 78)" in reasons(seen)

    put_settings()
    do("systemctl", "start", RUN)
    await_rows()


def test_a_full_disk_stops_acquisition_and_room_brings_it_back() -> None:
    do("systemctl", "stop", RUN, PUBLISH)
    owner = f"uid={RUN},gid=hemascope,mode=0770,size=6m"
    do("mount", "-t", "tmpfs", "-o", owner, "tmpfs", LEDGER)
    ballast = LEDGER / "ballast"
    ballast.write_bytes(bytes(1_600_000))
    do("systemctl", "start", RUN)

    full_s = wait_until(lambda: restarts(RUN) > 0, 150, "the disk is full")

    assert is_up("mosquitto")
    assert "the disk is full" in do("journalctl", "--no-pager", "-u", RUN)
    kept = rows()
    assert [row["seq"] for row in kept] == list(range(1, len(kept) + 1))
    assert "disk is full" in str(kept[-1]["reason"])
    ballast.unlink()
    wait_until(lambda: is_up(RUN), 60, "run is back")
    await_rows()
    print(f"full after {full_s:.0f} s and {len(kept)} rows")  # noqa: T201

    before = archived()
    do("systemctl", "start", PUBLISH)
    wait_until(lambda: archived() >= before + newest() - 5, 60, "all delivered")
    do("systemctl", "stop", RUN, PUBLISH)
    do("umount", LEDGER)
    do("systemctl", "start", RUN, PUBLISH)
    await_rows()


def test_all_stop_in_order() -> None:
    for unit in (RUN, PUBLISH, STORE):
        since_s = time.monotonic()
        do("systemctl", "stop", unit)
        assert time.monotonic() - since_s < 15
        assert show(unit, "ActiveState") == "inactive"
        assert show(unit, "Result") == "success"
        assert show(unit, "ExecMainStatus") == "0"


def test_nothing_was_lost_or_altered_in_all_this() -> None:
    program = "/opt/hemascope/bin/hemascope"
    verify = [program, "archive", "--verify", "--config", str(ETC / "archive.toml")]

    output = do("runuser", "-u", STORE, "--", *verify)

    assert len(re.findall(r"rows, intact", output)) == 2  # one of the small disk
    assert "broken" not in output
    assert "never came" not in output


def test_removal_leaves_what_was_recorded() -> None:
    mosquitto = Path("/etc/mosquitto/conf.d")
    shutil.copy(SYSTEMD / "mosquitto" / "certificates.conf", mosquitto)
    output = do(SYSTEMD / "remove.sh", "device", "archive", "broker")

    assert "/var/lib/hemascope stays" in output
    assert (LEDGER / "ledger.sqlite").exists()
    assert ARCHIVE.exists()
    assert list(Path("/etc/systemd/system").glob("**/hemascope*")) == []
    assert not list(mosquitto.glob("hemascope*"))
    assert not list(mosquitto.glob("certificates*"))
    assert shutil.which("hemascope", path="/opt/hemascope/bin")
    do("systemctl", "restart", "mosquitto")
