"""The way to the archive: name, port, certificate, log-in, topics, and who listens.

The broker takes the user name for the client id, so a second connection would throw
`publish` out. While it is at work, what it does is looked at instead.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec

from edge import clock
from edge.doctor.device import ExaminedDevice
from edge.doctor.findings import Finding, fault, fault_of, ok, unknown, warning
from edge.doctor.processes import publish_process
from edge.errors import HemascopeError
from edge.ledger.cursor import Cursor, read_cursor, stored_s_ago
from edge.monitoring.metrics import Metrics
from edge.mqtt import (
    ARCHIVE_STATE,
    REQUESTS,
    BrokerRefused,
    Link,
    Message,
    Published,
    topic,
)
from edge.schema.codec import PayloadInvalid, decode, encode
from edge.schema.messages import ArchiveState
from edge.settings.delivery import BrokerSettings

_TOUCH_S = 5.0
_WATCHED_S = 2.5  # a publisher that is connected stores its cursor every second
_SOON = timedelta(days=30)
_CREDENTIALS, _GIVEN = Path("/etc/hemascope/credentials"), Path("/run/credentials")
_FAILURE = 0x80
_NEW = "make a new one: docs/operations.md says how, without losing a result"
_READ_ITS_LOG = "read the broker's log: `journalctl -u mosquitto` there"


def check_broker(subject: ExaminedDevice) -> Iterator[Finding]:
    """Go the way of a result, one step after the other."""
    settings, folder = _with_credentials(subject.broker), subject.ledger.folder
    hidden = [path for path in _files(settings) if _is_hidden(path)]
    if hidden:
        yield unknown("broker", f"this user may not read {hidden[0]}", "use sudo")
        yield _archive_unknown()
        return
    yield from _own_certificates(settings)
    reached = list(_reach(settings))
    yield from reached
    if any(f.status == "fault" for f in reached):
        yield _archive_unknown()
        return
    process = publish_process(folder)
    if process is not None:
        yield from _as_publish_sees_it(process, folder)
        return
    try:
        yield from _log_in(settings, subject.device)
    except HemascopeError as error:
        yield fault_of("broker", error, _READ_ITS_LOG)
        yield _archive_unknown()


def _with_credentials(settings: BrokerSettings) -> BrokerSettings:
    """Take what systemd hands to `publish` from where it takes it itself."""
    changed = {}
    for name in ("password_file", "key", "cert"):
        path: Path | None = getattr(settings, name)
        is_given = path is not None and path.is_relative_to(_GIVEN)
        if path is None or not is_given or os.access(path, os.F_OK):
            continue
        changed[name] = _CREDENTIALS / path.name
    return msgspec.structs.replace(settings, **changed)


def _files(settings: BrokerSettings) -> list[Path]:
    named = (settings.ca, settings.cert, settings.key, settings.password_file)
    return [path for path in named if path is not None]


def _is_hidden(path: Path) -> bool:
    """Whether our rights are what keeps us from reading a file."""
    try:
        path.open("rb").close()
    except PermissionError:
        return True
    except OSError:  # it is not there, which is told later
        return False
    return False


def _reach(settings: BrokerSettings) -> Iterator[Finding]:
    """Resolve the name, open a connection, and check the broker's certificate."""
    where = f"{settings.host}:{settings.port}"
    try:
        socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        yield fault(
            "broker",
            f"the name {settings.host!r} is not known: {error}",
            "correct host in [broker], or ask the network's name server",
        )
        return
    try:
        plain = socket.create_connection((settings.host, settings.port), _TOUCH_S)
    except OSError as error:
        yield fault(
            "broker",
            f"{where} does not answer: {error}",
            "start the broker there: `systemctl start mosquitto`, and open the port",
        )
        return
    with plain:
        if settings.ca is None:
            yield _without_tls(settings)
        else:
            yield _certificate_of(plain, settings)


def _without_tls(settings: BrokerSettings) -> Finding:
    if settings.host in ("localhost", "127.0.0.1", "::1"):
        return ok("broker", f"{settings.host}:{settings.port} answers, on this machine")
    return warning(
        "broker",
        f"{settings.host}:{settings.port} answers without TLS: the network can read "
        "and alter everything",
        "set ca and the TLS port, 8883, in [broker]",
    )


def _certificate_of(plain: socket.socket, settings: BrokerSettings) -> Finding:
    """Shake hands and say how long the broker's certificate is good."""
    try:
        context = ssl.create_default_context(cafile=str(settings.ca))
        with context.wrap_socket(plain, server_hostname=settings.host) as secured:
            ends = _date(str((secured.getpeercert() or {}).get("notAfter")))
    except ssl.SSLCertVerificationError as error:
        return fault(
            "broker",
            f"its certificate is not accepted: {error.verify_message}",
            _REMEDIES.get(error.verify_code, _OTHER_CA),
        )
    except FileNotFoundError:
        return fault("broker", f"ca {settings.ca} is not there", "copy ca.pem there")
    except ssl.SSLError as error:
        return fault("broker", f"no TLS: {error}", "check ca, and that port is 8883")
    except OSError as error:
        return fault("broker", f"TLS broke off: {error}", "check that port is 8883")
    text = f"{settings.host}:{settings.port} answers; its certificate"
    return _ends("broker", text, ends, _NEW)


_OTHER_CA = "copy the authority's present ca.pem from the server"
_REMEDIES = {
    10: "renew the broker's certificate, or set this machine's clock",  # expired
    9: "set this machine's clock: the certificate begins later",
    62: "make the broker's certificate for the name that [broker] host gives",
    64: "make the broker's certificate for the address that [broker] host gives",
}


def _own_certificates(settings: BrokerSettings) -> Iterator[Finding]:
    """Say how long the authority's and our own certificate are good."""
    for name, path in (("authority", settings.ca), ("own", settings.cert)):
        if path is None or not path.exists():
            continue
        try:
            text = subprocess.run(  # noqa: S603
                ["openssl", "x509", "-in", str(path), "-noout", "-enddate"],  # noqa: S607
                capture_output=True,
                text=True,
                check=True,
                timeout=10,
            ).stdout
        except (OSError, subprocess.SubprocessError):
            yield unknown(
                "broker",
                f"{path}: openssl cannot read how long it is good",
                f"look at it: `openssl x509 -in {path} -text`",
            )
            continue
        ends = _date(text.strip().removeprefix("notAfter="))
        yield _ends("broker", f"the {name} certificate {path}", ends, _NEW)


def _ends(name: str, what: str, ends: datetime, remedy: str) -> Finding:
    left = ends - clock.utc_now()
    text = f"{what} is good until {ends:%Y-%m-%d}"
    if left < timedelta(0):
        return fault(name, f"{what} ended {ends:%Y-%m-%d}", remedy)
    if left < _SOON:
        return warning(name, f"{text}, {left.days} days", remedy)
    return ok(name, text)


def _date(text: str) -> datetime:
    """Read the date of a certificate, such as "Nov 25 12:00:00 2026 GMT"."""
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), timezone.utc)


def _as_publish_sees_it(process: int, folder: Path) -> Iterator[Finding]:
    """Say whether `publish` stays connected, by its cursor."""
    before = read_cursor(folder)
    time.sleep(_WATCHED_S)
    after = read_cursor(folder)
    who = f"publish (process {process})"
    if not _is_serving(before, after, folder):
        yield fault(
            "broker",
            f"{who} is not connected; it tries again and again",
            "read why in `journalctl -u hemascope-publish`",
        )
        yield _archive_unknown()
        return
    upto = 0 if after is None else after.upto
    yield ok("broker", f"{who} is connected and was not disturbed")
    yield ok("archive", f"it has acknowledged row {upto:,}; see ledger and alarms")


def _is_serving(before: Cursor | None, after: Cursor | None, folder: Path) -> bool:
    """Whether the connection is the same and its cursor was stored just now."""
    if before is None or after is None or before.connections != after.connections:
        return False
    age_s = stored_s_ago(folder)
    return age_s is not None and age_s < _WATCHED_S


def _archive_unknown() -> Finding:
    return unknown(
        "archive",
        "nobody can tell whether it listens",
        "see to the finding on the broker first",
    )


def _log_in(settings: BrokerSettings, device: str) -> Iterator[Finding]:
    """Connect as the device would, ask for its topics, and hear of the archive."""
    with closing(Link(settings, device, [])):
        pass
    names = [topic(device, "ack"), f"{topic(device, REQUESTS)}/#", ARCHIVE_STATE]
    for name in names:
        try:
            with closing(Link(settings, device, [name])):
                pass
        except BrokerRefused:
            yield fault(
                "broker",
                f"it lets {device!r} in but not read {name}",
                "put systemd/mosquitto/hemascope.acl on the broker, then `systemctl "
                "reload mosquitto`",
            )
            yield _archive_unknown()
            return
    with closing(Link(settings, device, [ARCHIVE_STATE])) as link:
        wrote = link.publish(topic(device, "metrics"), encode(_figures(device)))
        heard = _listen(link, wrote)
    if any(isinstance(e, Published) and e.reason_code >= _FAILURE for e in heard):
        yield fault(
            "broker",
            f"it lets {device!r} in but not write {topic(device, 'metrics')}",
            "give the device's name as username: the access list is by name",
        )
    else:
        yield ok("broker", f"MQTT 5, lets {device!r} in, its topics are allowed")
    yield _archive([e for e in heard if isinstance(e, Message)])


def _figures(device: str) -> Metrics:
    """Return what is true of a device whose programs are not at work."""
    return Metrics(
        device=device,
        utc=clock.utc_now(),
        newest=0,
        acknowledged=0,
        backlog=0,
        run=None,
    )


def _listen(link: Link, message_id: int) -> list[Message | Published]:
    """Return what arrives until `message_id` is answered, and shortly after."""
    heard: list[Message | Published] = []
    until_s = time.monotonic() + _TOUCH_S
    while time.monotonic() < until_s:
        heard += link.poll(0.1)
        if any(isinstance(e, Published) and e.message_id == message_id for e in heard):
            until_s = min(until_s, time.monotonic() + 0.3)
    return heard


def _archive(messages: list[Message]) -> Finding:
    """Say whether an archive listens, by its retained state."""
    start = "start `hemascope archive` on the lab server"
    if not messages:
        return warning("archive", "none has ever been at this broker", start)
    try:
        state = decode(messages[-1].payload, ArchiveState).state
    except PayloadInvalid as error:
        return fault("archive", f"its state is no state: {error}", start)
    if state != "online":
        return warning("archive", f"it is {state}; rows stay on the device", start)
    return ok("archive", "it listens")
