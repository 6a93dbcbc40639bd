"""Hostile payloads on every topic that a program of ours subscribes to.

    python -m tests.hostile --payloads 10000

starts a mosquitto and the real programs `publish`, `archive` and `watch`, sends so many
payloads per topic, and says what became of them: none may be accepted, every program
must still work, and its memory must stay flat. What counts as hostile is decided by
the published JSON Schemas and Python's own strict reading, not by the programs' types.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema

from edge.archive.store import Chain, Store
from edge.clock import utc_now
from edge.contract.json_schemas import schema_text
from edge.demo.broker import Mosquitto, free_port, start_broker
from edge.ledger.reader import LedgerReader
from edge.ledger.writer import Ledger
from edge.monitoring.metrics import Metrics
from edge.mqtt import ARCHIVE_STATE, Link, topic
from edge.remote.admission import REFUSAL_BURST
from edge.remote.client import new_request
from edge.remote.command_executor import CommandExecutor
from edge.schema.codec import encode, write_toml
from edge.schema.entries import Alarm, Audit, read_row
from edge.schema.messages import Ack, ArchiveState, DeviceState
from edge.schema.requests import COMMANDS, Request
from edge.settings.delivery import BrokerSettings, CommandSettings
from edge.settings.files import ArchiveFile, ArchiveSettings, DeviceFile
from edge.settings.run import LedgerSettings
from edge.settings.sources import SimulatedSettings
from tests.asking import NotingHandlers
from tests.conftest import frame_result

DEVICE = "scope-01"
_HUGE = 200_000
_WORDS: tuple[Any, ...] = (
    *(None, True, -1, 0.5, 10**30, -(10**30), [], {}, "", "\x00", "\ud800", "NaN"),
    *(float("nan"), float("inf"), "é" * 70, [[[]]], {"v": 1}, "2026-13-45T99:99:99Z"),
)


@dataclass(frozen=True, slots=True)
class Shot:
    """One hostile message."""

    topic: str
    payload: bytes
    is_retained: bool = False
    properties: tuple[tuple[str, str], ...] = ()


def is_strict(payload: bytes, schema: dict[str, Any]) -> bool:
    """Whether a reader who follows the standards to the letter takes the payload."""

    def no_constant(text: str) -> None:
        raise ValueError(text)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    try:
        text = payload.decode("utf-8")
        said = json.loads(text, parse_constant=no_constant, object_pairs_hook=unique)
        return jsonschema.Draft202012Validator(schema).is_valid(said)
    except (ValueError, RecursionError):
        return False


def mutated(valid: bytes, rng: random.Random) -> bytes:  # noqa: C901 a flat table
    """Return the bytes of something valid, spoilt."""
    match rng.randrange(12):
        case 0:
            return valid[: rng.randrange(len(valid))]
        case 1:
            place = rng.randrange(len(valid))
            spoilt = bytes([rng.randrange(128, 256)])
            return valid[:place] + spoilt + valid[place + 1 :]
        case 2:
            return rng.randbytes(rng.choice([0, 1, 7, 300, 5000]))
        case 3:
            depth = rng.choice([10, 1000, 50_000])
            return rng.choice([b"[", b'{"a":']) * depth
        case 4:
            return valid[:-1] + b',"x":"' + b"A" * _HUGE + b'"}'
        case 5:
            return valid[:-1] + b',"unknown":1}'
        case 6:
            return rng.choice([b"\xef\xbb\xbf", b"\x00", b"\x1f\x8b"]) + valid
        case 7:
            return valid.decode().encode(rng.choice(["utf-16", "utf-32"]))
        case 8:
            return valid + rng.choice([valid, b"\x00", b"x", b"}"])
        case 9:
            number = rng.choice([b"1e999", b"NaN", b"-Infinity", b"9" * 400, b"0x1"])
            return _with_first_number(valid, number)
        case _:
            return _with_wrong_part(valid, rng)


def _with_first_number(valid: bytes, number: bytes) -> bytes:
    place = next(i for i, c in enumerate(valid) if chr(c).isdigit())
    end = next(i for i in range(place, len(valid)) if not chr(valid[i]).isdigit())
    return valid[:place] + number + valid[end:]


def _with_wrong_part(valid: bytes, rng: random.Random) -> bytes:
    """Replace, remove or double one field, at any depth."""
    text = json.loads(valid)
    part: Any = text
    while True:
        key = rng.choice(list(part) if isinstance(part, dict) else range(len(part)))
        inside = part[key]
        if isinstance(inside, (dict, list)) and inside and rng.random() < 0.6:
            part = inside
            continue
        break
    if rng.random() < 0.2 and isinstance(part, dict):
        del part[key]
    else:
        part[key] = rng.choice(_WORDS)
    return json.dumps(text).encode("utf-8", "surrogatepass")


@dataclass
class Arsenal:
    """Valid payloads of each topic, and how each is made hostile."""

    rng: random.Random
    samples: dict[str, bytes]
    request: Request

    def shots(self, name: str, count: int) -> list[Shot]:
        """Return hostile messages for one topic; every one is refused by the schema."""
        made: list[Shot] = []
        while len(made) < count:
            if name.startswith("cmd/req/") and self.rng.random() < 0.4:
                made.append(self._well_formed(name))
                continue
            if name == "preview":
                made.append(self._picture())
                continue
            sample, schema = self.samples[name], _schema(name)
            other = self.samples[self.rng.choice(list(self.samples))]
            payload = mutated(sample, self.rng) if self.rng.random() < 0.9 else other
            if not is_strict(payload, schema):
                kept = self.rng.random() < 0.05 and 0 < len(payload) < 1000
                made.append(Shot(_topic(name), payload, is_retained=kept))
        return made

    def _well_formed(self, name: str) -> Shot:
        """Return a request that is one, and must be refused all the same."""
        now = utc_now()
        request = new_request("stop", "enemy")
        stale = {
            "issued": now - timedelta(seconds=50),
            "expires": now - timedelta(seconds=20),
        }
        later = {
            "issued": now + timedelta(seconds=600),
            "expires": now + timedelta(seconds=630),
        }
        endless = {"issued": now, "expires": now + timedelta(days=9)}
        what = self.rng.randrange(6)
        fields = {f: getattr(request, f) for f in request.__struct_fields__}
        if what < 3:
            request = Request(**(fields | (stale, later, endless)[what]))
        if what == 3:
            request = self.request  # replayed: it was done before
        unknown = self.rng.choice(["reboot", "stop/now", "../stop", "note", "x" * 300])
        where = _topic(f"cmd/req/{unknown}") if what == 4 else _topic("cmd/req/stop")
        return Shot(where, encode(request), is_retained=what == 5)

    def _picture(self) -> Shot:
        jpeg = b"\xff\xd8\xff" + self.rng.randbytes(200)
        match self.rng.randrange(4):
            case 0:
                return Shot(_topic("preview"), jpeg)
            case 1:
                row = self.rng.choice(["", "-1", "x", "9" * 40, "1 ", "٣"])
                return Shot(_topic("preview"), jpeg, properties=(("seq", row),))
            case 2:
                seq = (("seq", "1"),)
                return Shot(_topic("preview"), b"<svg onload=alert(1)>", properties=seq)
            case _:
                seq = (("seq", "1"),)
                return Shot(_topic("preview"), jpeg, True, seq)


def _topic(name: str) -> str:
    return ARCHIVE_STATE if name == "archive-state" else topic(DEVICE, name)


def _schema(name: str) -> dict[str, Any]:
    kinds = {
        "result": ("result", "entry"),
        "alarm": ("entry",),
        "state": ("device-state",),
        "cmd/req/note": ("note-request",),
        "cmd/req/start": ("start-request",),
    }
    found = kinds.get(name, ("request",) if name.startswith("cmd/") else (name,))
    schemas = [json.loads(schema_text(kind)) for kind in found]
    if len(schemas) == 1:
        return schemas[0]  # type: ignore[no-any-return]
    return {
        "$defs": {k: v for schema in schemas for k, v in schema["$defs"].items()},
        "anyOf": [{"$ref": schema["$ref"]} for schema in schemas],
    }


@dataclass
class Range:
    """The programs under fire, and a run process that writes rows meanwhile."""

    folder: Path
    rows: int = 0
    sent: int = 0
    requests: int = 0
    memory: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        broker = start_broker(self.folder)
        assert isinstance(broker, Mosquitto), "mosquitto is not installed"
        self.broker, self.page = broker, free_port()
        address = BrokerSettings(port=broker.port)
        self.address = address
        self.ledger = Ledger(self.folder / "ledger", DEVICE)
        self.handlers = NotingHandlers()
        self.executor = CommandExecutor(
            self.folder / "ledger",
            self.ledger.state,
            lambda text, taken=None: self._append(text, taken),
            self.handlers.table,
            CommandSettings(allow=COMMANDS),
        )
        write_toml(
            self.folder / "device.toml",
            DeviceFile(
                device=DEVICE,
                source=SimulatedSettings(),
                ledger=LedgerSettings(self.folder / "ledger"),
                commands=CommandSettings(allow=COMMANDS),
                broker=address,
            ),
        )
        write_toml(
            self.folder / "archive.toml",
            ArchiveFile(
                archive=ArchiveSettings(self.folder / "a.sqlite"), broker=address
            ),
        )
        where = ["--port", str(broker.port), "--page", str(self.page)]
        self.running = {
            "archive": self._start(
                "archive", "--config", str(self.folder / "archive.toml")
            ),
            "publish": self._start(
                "publish", "--config", str(self.folder / "device.toml")
            ),
            "watch": self._start("watch", *where),
        }
        patient = BrokerSettings(port=broker.port, keepalive_s=600)
        self.enemy = Link(patient, "enemy", [])  # it takes its time to aim

    def _start(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "edge", name, *options],
                stdout=log,
                stderr=log,
            )

    def _append(self, text: Any, taken: Any) -> None:
        self.rows += len(text)
        self.ledger.append_all(text, taken)

    def examine(self) -> None:
        """Write one more result, as the run process would, and take requests over."""
        self.ledger.append(frame_result(cells=2))
        self.rows += 1
        self.executor.step()

    def until(self, holds: Callable[[], object], within_s: float = 60.0) -> None:
        """Go on examining until something holds."""
        deadline = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline, f"it does not happen: {holds}"
            self.executor.step()
            for name, process in self.running.items():
                assert process.poll() is None, f"{name} has ended"
            time.sleep(0.02)

    def fire(self, shots: list[Shot]) -> None:
        """Send hostile messages, a few at a time, while results go on."""
        for number, shot in enumerate(shots):
            self.enemy.publish(
                shot.topic,
                shot.payload,
                is_retained=shot.is_retained,
                properties=(*shot.properties, ("client", "enemy")),
            )
            if shot.is_retained:  # or it would come again at the next connection
                self.enemy.publish(shot.topic, b"", is_retained=True)
            if number % 20 == 0:
                self.enemy.poll(0.001)
                self.executor.step()
            if number % 500 == 0:
                self.examine()
        self.sent += len(shots)
        while self.enemy._unconfirmed:
            self.enemy.poll(0.05)

    def measure(self) -> None:
        """Note the memory of every program, in MB."""
        for name, process in self.running.items():
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
            line = next(x for x in status.splitlines() if x.startswith("VmRSS"))
            self.memory.setdefault(name, []).append(int(line.split()[1]) / 1024)

    def page_is_up(self) -> bool:
        """Whether `watch` has begun to serve its page."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.page)) == 0

    def page_says(self) -> dict[str, Any]:
        """Return what `watch` shows."""
        url = f"http://127.0.0.1:{self.page}/events"
        with urllib.request.urlopen(url, timeout=5) as answer:
            line = answer.readline()
        return json.loads(line.removeprefix(b"data: "))  # type: ignore[no-any-return]

    def archived(self) -> list[bytes]:
        store = Store(self.folder / "a.sqlite")
        chains = store.chains()
        rows = [row.data for chain in chains for row in store.rows(chain)]
        assert chains in ([], [Chain(DEVICE, self.ledger.epoch)]), chains
        assert store.holes() == []
        store.close()
        return rows

    def close(self) -> None:
        """End everything."""
        self.enemy.close()
        for process in self.running.values():
            process.terminate()
            process.wait()
        self.ledger.close()
        self.broker.close()


def samples(epoch: str, row: bytes) -> dict[str, bytes]:
    """Return something valid for every subscribed topic but pictures."""
    now = utc_now()
    ack = Ack(epoch=epoch, upto=1, hash="0" * 64, resume=False)
    state = DeviceState(
        state="offline",
        device=DEVICE,
        epoch=epoch,
        connection=10**6,
        oldest=1,
        seq=1,
        acknowledged=0,
        software="0",
    )
    metrics = Metrics(
        device=DEVICE, utc=now, newest=1, acknowledged=0, backlog=1, run=None
    )
    asked = {
        f"cmd/req/{name}": encode(new_request(name, "enemy", "text"))
        for name in COMMANDS
    }
    return {
        "result": row,
        "ack": encode(ack),
        "state": encode(state),
        "archive-state": encode(ArchiveState(state="offline")),
        "metrics": encode(metrics),
        "alarm": row,
        **asked,
    }


def bombard(folder: Path, payloads: int, seed: int = 0) -> dict[str, Any]:
    """Fire `payloads` at every topic, prove that nothing was taken, return figures."""
    place = Range(folder)
    try:
        return _bombard(place, payloads, random.Random(seed))  # noqa: S311
    finally:
        place.close()


def _bombard(place: Range, payloads: int, rng: random.Random) -> dict[str, Any]:
    place.until(place.page_is_up)
    place.until(lambda: place.page_says()["archive"] == "online")  # it listens now
    for _ in range(3):
        place.examine()
    place.until(lambda: len(place.archived()) == place.rows)
    place.until(lambda: place.page_says().get("devices"))
    good = new_request("stop", "anna")
    _ask(place, good)
    place.until(lambda: place.handlers.did == ["stop"])
    reader = LedgerReader(place.folder / "ledger")
    arsenal = Arsenal(rng, samples(place.ledger.epoch, reader.rows(0, 1)[0].data), good)
    names = [*arsenal.samples, "preview"]
    requests = [name for name in names if name.startswith("cmd/req/")]
    start_s = time.monotonic()
    steps = min(10, max(1, payloads // 20))
    for step in range(steps):
        share = payloads // steps + (step < payloads % steps)
        for name in names:
            if name in requests:
                here = math.ceil(share / len(requests))
                place.requests += here
                place.fire(arsenal.shots(name, here))
            else:
                place.fire(arsenal.shots(name, share))
        place.until(lambda: len(place.archived()) == place.rows)
        place.measure()
    spent_s = time.monotonic() - start_s
    return {**_verdict(place, reader), "seconds": round(spent_s, 1)}


def _ask(place: Range, request: Request) -> None:
    link = Link(place.address, "anna", [])
    link.publish(topic(DEVICE, "cmd/req/stop"), encode(request))
    link.poll(0.1)
    link.close()


def _verdict(place: Range, reader: LedgerReader) -> dict[str, Any]:
    """Prove that all still work and nothing was taken."""
    last = new_request("stop", "anna")
    if place.requests > REFUSAL_BURST:
        time.sleep(11)  # then one refusal more has a row of its own
    _ask(place, new_request("stop", "anna", lifetime_s=900))  # refused: too long
    _ask(place, last)
    place.until(lambda: len(place.handlers.did) == 2)
    place.until(lambda: len(place.archived()) == place.rows)
    written = [row.data for row in reader.rows(0, 10**6)]
    assert place.archived() == written
    entries = [read_row(data) for data in written]
    audits = [e.entry for e in entries if isinstance(getattr(e, "entry", None), Audit)]
    alarms = [e.entry for e in entries if isinstance(getattr(e, "entry", None), Alarm)]
    assert {a.code for a in alarms} <= {"requests-flooded", "run-silent"}
    done = [a for a in audits if a.outcome == "done"]
    refused = [a for a in audits if a.outcome == "refused"]
    assert len(done) == 2, "a hostile request was carried out"
    recorded = len(refused) + sum(a.unrecorded for a in refused)
    assert recorded == place.requests + 1, (recorded, place.requests)
    place.until(lambda: place.page_says()["devices"][0]["cells"] == _cells(entries))
    (device,) = place.page_says()["devices"]
    assert device["device"] == DEVICE
    assert place.page_says()["archive"] == "online"
    for process in place.running.values():
        assert process.poll() is None
    reader.close()
    return {
        "sent": place.sent,
        "accepted": 0,
        "requests refused": place.requests,
        "audit rows of refusals": len(refused),
        "rows archived": len(written),
        "memory in MB": {
            name: [round(mb, 1) for mb in found] for name, found in place.memory.items()
        },
        "quarantined": _quarantined(place.folder / "a.sqlite"),
        "on disk in kB": {
            name: sum(p.stat().st_size for p in place.folder.glob(pattern)) >> 10
            for name, pattern in (
                ("ledger and inbox", "ledger/*.sqlite*"),
                ("archive", "a.sqlite*"),
                ("logs of the programs", "[apw]*.log"),
            )
        },
    }


def _cells(entries: list[Any]) -> dict[str, int]:
    return {"RBC": sum(e.counts.get("RBC", 0) for e in entries if hasattr(e, "counts"))}


def _quarantined(path: Path) -> int:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("SELECT count(*) FROM quarantine").fetchone()[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--payloads", type=int, default=10_000, help="per topic")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hemascope-hostile-") as made:
        figures = bombard(Path(made), options.payloads, options.seed)
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
