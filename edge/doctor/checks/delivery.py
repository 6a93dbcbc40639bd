"""The way to the archive: name, port, certificate, log-in, topics, and the archive.

The broker takes the user name as the client id, so a second connection would disconnect
`publish`. While `publish` is at work, doctor does not log in, but watches its cursor.
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
from edge.doctor.findings import Finding, fault, fault_from, ok, unknown, warning
from edge.doctor.processes import publish_process
from edge.errors import HemascopeError
from edge.ledger.cursor import Cursor, cursor_age_s, read_cursor
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

_TIMEOUT_S = 5.0
_WATCH_S = 2.5  # a connected publisher stores its cursor every second
_EXPIRES_SOON = timedelta(days=30)
# systemd copies the credentials of a unit from the first folder into the second.
_CREDENTIALS, _UNIT_CREDENTIALS = (
    Path("/etc/hemascope/credentials"),
    Path("/run/credentials"),
)
_FAILURE = 0x80  # MQTT 5, section 2.4: reason codes from here on are failures
_NEW_CERTIFICATE = (
    "make a new one: docs/operations.md says how, without losing a result"
)
_READ_BROKER_LOG = "read the broker's log: run `journalctl -u mosquitto` on its machine"


def check_broker(device: ExaminedDevice) -> Iterator[Finding]:
    """Check the way of a result, step by step."""
    settings, folder = _with_credentials(device.broker), device.ledger.folder
    unreadable = [path for path in _files(settings) if _is_unreadable(path)]
    if unreadable:
        yield unknown(
            "broker", f"this user may not read {unreadable[0]}", "run doctor with sudo"
        )
        yield _archive_unknown()
        return
    yield from _own_certificates(settings)
    connection = list(_check_connection(settings))
    yield from connection
    if any(f.status == "fault" for f in connection):
        yield _archive_unknown()
        return
    process = publish_process(folder)
    if process is not None:
        yield from _from_cursor(process, folder)
        return
    try:
        yield from _log_in(settings, device.name)
    except HemascopeError as error:
        yield fault_from("broker", error, _READ_BROKER_LOG)
        yield _archive_unknown()


def _with_credentials(settings: BrokerSettings) -> BrokerSettings:
    """Return settings that name the original files of a unit's credentials.

    systemd shows the copies to the unit alone.
    """
    changed = {}
    for name in ("password_file", "key", "cert"):
        path: Path | None = getattr(settings, name)
        is_given = path is not None and path.is_relative_to(_UNIT_CREDENTIALS)
        if path is None or not is_given or os.access(path, os.F_OK):
            continue
        changed[name] = _CREDENTIALS / path.name
    return msgspec.structs.replace(settings, **changed)


def _files(settings: BrokerSettings) -> list[Path]:
    named = (settings.ca, settings.cert, settings.key, settings.password_file)
    return [path for path in named if path is not None]


def _is_unreadable(path: Path) -> bool:
    """Whether this user's permissions forbid to read a file."""
    try:
        path.open("rb").close()
    except PermissionError:
        return True
    except OSError:  # it does not exist, which is reported later
        return False
    return False


def _check_connection(settings: BrokerSettings) -> Iterator[Finding]:
    """Resolve the name, open a connection, and check the broker's certificate."""
    where = f"{settings.host}:{settings.port}"
    try:
        socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        yield fault(
            "broker",
            f"the name {settings.host!r} is not known: {error}",
            "correct host in [broker], or add the name to the network's name server",
        )
        return
    try:
        plain = socket.create_connection((settings.host, settings.port), _TIMEOUT_S)
    except OSError as error:
        yield fault(
            "broker",
            f"{where} does not answer: {error}",
            "on its machine run `systemctl start mosquitto`, and open the port",
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
        f"{settings.host}:{settings.port} answers without TLS: others in the network "
        "can read and alter everything",
        "set ca and the TLS port, 8883, in [broker]",
    )


def _certificate_of(plain: socket.socket, settings: BrokerSettings) -> Finding:
    """Connect by TLS, and check how long the broker's certificate is valid."""
    try:
        context = ssl.create_default_context(cafile=str(settings.ca))
        with context.wrap_socket(plain, server_hostname=settings.host) as secured:
            ends = _date(str((secured.getpeercert() or {}).get("notAfter")))
    except ssl.SSLCertVerificationError as error:
        return fault(
            "broker",
            f"the broker's certificate is not accepted: {error.verify_message}",
            _CERTIFICATE_REMEDIES.get(error.verify_code, _OTHER_CA),
        )
    except FileNotFoundError:
        return fault("broker", f"ca {settings.ca} does not exist", "copy ca.pem there")
    except ssl.SSLError as error:
        return fault(
            "broker", f"TLS failed: {error}", "check ca, and that port is 8883"
        )
    except OSError as error:
        return fault(
            "broker",
            f"the connection broke during TLS: {error}",
            "check that port is 8883",
        )
    text = f"{settings.host}:{settings.port} answers; its certificate"
    return _validity("broker", text, ends, _NEW_CERTIFICATE)


_OTHER_CA = "copy the authority's current ca.pem from the server"
_CERTIFICATE_REMEDIES = {  # by OpenSSL's X509_V_ERR_…
    10: "renew the broker's certificate, or set this machine's clock",  # expired
    9: "set this machine's clock: the certificate is not valid yet",
    62: "make the broker's certificate for the name that [broker] host gives",
    64: "make the broker's certificate for the address that [broker] host gives",
}


def _own_certificates(settings: BrokerSettings) -> Iterator[Finding]:
    """Check how long the authority's and our own certificate are valid."""
    certificates = (
        ("the authority's certificate", settings.ca),
        ("this device's certificate", settings.cert),
    )
    for name, path in certificates:
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
                f"{path}: openssl cannot read how long it is valid",
                f"run `openssl x509 -in {path} -text` and read what it prints",
            )
            continue
        ends = _date(text.strip().removeprefix("notAfter="))
        yield _validity("broker", f"{name} {path}", ends, _NEW_CERTIFICATE)


def _validity(name: str, what: str, ends: datetime, remedy: str) -> Finding:
    remaining = ends - clock.utc_now()
    text = f"{what} is valid until {ends:%Y-%m-%d}"
    if remaining < timedelta(0):
        return fault(name, f"{what} expired on {ends:%Y-%m-%d}", remedy)
    if remaining < _EXPIRES_SOON:
        return warning(name, f"{text}, for {remaining.days} days", remedy)
    return ok(name, text)


def _date(text: str) -> datetime:
    """Read the date of a certificate, such as "Nov 25 12:00:00 2026 GMT"."""
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), timezone.utc)


def _from_cursor(process: int, folder: Path) -> Iterator[Finding]:
    """Check whether `publish` stays connected, by its cursor."""
    before = read_cursor(folder)
    time.sleep(_WATCH_S)
    after = read_cursor(folder)
    who = f"publish (process {process})"
    if not _is_connected(before, after, folder):
        trouble = "" if after is None else after.trouble
        yield fault(
            "broker",
            f"{who} is not connected; {trouble or 'it keeps trying'}",
            "read the reason in `journalctl -u hemascope-publish`",
        )
        yield _archive_unknown()
        return
    upto = 0 if after is None else after.upto
    yield ok("broker", f"{who} is connected and was not disturbed")
    yield ok("archive", f"it has acknowledged row {upto:,}; see ledger and alarms")


def _is_connected(before: Cursor | None, after: Cursor | None, folder: Path) -> bool:
    """Whether the connection is still the same and the cursor was just stored."""
    if before is None or after is None or before.connections != after.connections:
        return False
    if after.trouble:
        return False
    age_s = cursor_age_s(folder)
    return age_s is not None and age_s < _WATCH_S


def _archive_unknown() -> Finding:
    return unknown(
        "archive",
        "whether it listens could not be checked",
        "see to the finding on the broker first",
    )


def _log_in(settings: BrokerSettings, device: str) -> Iterator[Finding]:
    """Connect as the device does; try its topics; read the archive's state."""
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
                f"it lets {device!r} log in, but not read {name}",
                "install systemd/mosquitto/hemascope.acl on the broker, then run "
                "`systemctl reload mosquitto`",
            )
            yield _archive_unknown()
            return
    with closing(Link(settings, device, [ARCHIVE_STATE])) as link:
        message_id = link.publish(
            topic(device, "metrics"), encode(_idle_metrics(device))
        )
        received = _receive(link, message_id)
    if any(isinstance(e, Published) and e.reason_code >= _FAILURE for e in received):
        yield fault(
            "broker",
            f"it lets {device!r} log in, but not write {topic(device, 'metrics')}",
            "set username to the device's name: the access list goes by name",
        )
    else:
        yield ok("broker", f"MQTT 5, {device!r} can log in, its topics are allowed")
    yield _archive([e for e in received if isinstance(e, Message)])


def _idle_metrics(device: str) -> Metrics:
    """Return the metrics of a device whose processes are not at work."""
    return Metrics(
        device=device,
        utc=clock.utc_now(),
        newest=0,
        acknowledged=0,
        backlog=0,
        run=None,
    )


def _receive(link: Link, message_id: int) -> list[Message | Published]:
    """Return what arrives until `message_id` is answered, and shortly after."""
    received: list[Message | Published] = []
    until_s = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < until_s:
        received += link.poll(0.1)
        if any(
            isinstance(e, Published) and e.message_id == message_id for e in received
        ):
            until_s = min(until_s, time.monotonic() + 0.3)
    return received


def _archive(messages: list[Message]) -> Finding:
    """Check whether an archive listens, by its retained state."""
    start = "start `hemascope archive` on the lab server"
    if not messages:
        return warning("archive", "no archive has ever connected to this broker", start)
    try:
        state = decode(messages[-1].payload, ArchiveState).state
    except PayloadInvalid as error:
        return fault("archive", f"its state cannot be read: {error}", start)
    if state != "online":
        return warning("archive", f"it is {state}; rows stay on the device", start)
    return ok("archive", "it listens")
