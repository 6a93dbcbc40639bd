"""Devices that are broken in one way each, and what doctor must find.

They are really broken: files are altered, brokers refuse, cameras show one picture.
`python -m tests.broken` writes the output for some of them into docs/doctor.md.
"""

from __future__ import annotations

import http.server
import io
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
from rich.console import Console

from edge import clock
from edge.artifacts.bundle import CLASSIFIER, LOCATOR
from edge.artifacts.profile import ProfileRecord, save_profile
from edge.demo.broker import free_port
from edge.doctor.device import read_device
from edge.doctor.findings import Finding, Status
from edge.doctor.registry import CHECKS
from edge.doctor.report import table_of
from edge.doctor.runner import examine_device, run_check
from edge.ledger.cursor import Cursor, write_cursor
from edge.ledger.writer import Ledger
from edge.mqtt import ARCHIVE_STATE, Link
from edge.run.crash_record import record_failure
from edge.schema.codec import encode
from edge.schema.entries import Alarm
from edge.schema.messages import ArchiveState
from edge.settings.delivery import BrokerSettings
from edge.settings.sources import SimulatedSettings
from edge.simulation.microscope import SimulatedMicroscope
from tests.conftest import frame_result
from tests.systemd.broker import PASSWORDS, SHIPPED, ShippedBroker

DEVICE = "scope-01"
PAGE = Path(__file__).parents[1] / "docs" / "doctor.md"


class Device:
    """A device in a folder in which nothing is wrong, until a function breaks it.

    `broker` is up, and its archive listens.
    """

    def __init__(self, folder: Path, broker: ShippedBroker) -> None:
        self.folder, self.broker = folder, broker
        self.opened = ExitStack()
        self.text = ""  # written before the settings, as it is
        (folder / "images").mkdir(parents=True)
        for number, png in enumerate(_fields()):
            (folder / "images" / f"{number}.png").write_bytes(png)
        save_profile(
            folder / "profile",
            ProfileRecord(
                white_point=(240.0, 240.0, 240.0),
                pixel_size_um=0.07,
                created_at=clock.utc_now(),
            ),
            np.full((48, 64, 3), 0.9, np.float32),
        )
        (folder / "ca.pem").write_bytes((broker.folder / "ca.pem").read_bytes())
        (folder / "password").write_text(PASSWORDS[DEVICE])
        (folder / "password").chmod(0o600)
        self.settings: dict[str, Any] = {
            "device": DEVICE,
            "profile": "profile",
            "source": {"kind": "folder", "path": "images"},
            "model": {},
            "ledger": {"folder": "ledger"},
            "broker": {
                "host": "localhost",
                "port": broker.ports["tls"],
                "ca": "ca.pem",
                "username": DEVICE,
                "password_file": "password",
            },
        }
        self.write_rows(3)

    def write_rows(self, rows: int, **changes: Any) -> None:
        """Write and acknowledge so many rows; `changes` replace fields of results."""
        ledger = Ledger(self.folder / "ledger", DEVICE)
        text = frame_result(**({"utc": clock.utc_now()} | changes))
        written = [ledger.append(text) for _ in range(rows)]
        ledger.close()
        upto = Cursor(ledger.epoch, written[-1].seq, written[-1].sha256, 1)
        write_cursor(self.folder / "ledger", upto)

    def config(self) -> Path:
        """Write the settings and return their file."""
        path = self.folder / "device.toml"
        path.write_bytes(self.text.encode() + msgspec.toml.encode(self.settings))
        return path

    def check(self, name: str) -> tuple[Finding, ...]:
        """Run one check in this process."""
        return run_check(CHECKS[name], read_device(self.config()))

    def close(self) -> None:
        self.opened.close()


@cache
def _fields() -> list[bytes]:
    """PNG files of two simulated fields."""
    settings = SimulatedSettings(width_px=640, height_px=480, rate_hz=0, seed=3)
    microscope = SimulatedMicroscope(settings)
    pictures = (microscope.render(60 * n) for n in range(2))
    return [_png(picture) for picture in pictures]


def _png(rgb: Any) -> bytes:
    return bytes(cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1])


def start_shipped(folder: Path) -> ShippedBroker:
    """A broker as we ship it, with an archive whose state is online."""
    broker = ShippedBroker(folder)
    (folder / "archive-password").write_text(PASSWORDS["archive"])
    settings = BrokerSettings(
        host="localhost",
        port=broker.ports["tls"],
        ca=folder / "ca.pem",
        username="archive",
        password_file=folder / "archive-password",
    )
    with closing(Link(settings, "archive", [])) as link:
        state = encode(ArchiveState(state="online"))
        link.publish(ARCHIVE_STATE, state, is_retained=True)
        link.poll(0.2)
    return broker


# -- what is broken --------------------------------------------------------------------


def an_unknown_setting(device: Device) -> None:
    device.settings["run"] = {"worker": 2}


def no_toml(device: Device) -> None:
    device.text = "device = scope-01\n"


def no_camera(device: Device) -> None:
    device.settings["source"] = {"kind": "opencv", "device": "/dev/video9"}


def a_camera_in_use(device: Device) -> None:
    """/dev/zero stands for the camera: a device node that another program has open."""
    with Path("/dev/zero").open("rb") as node:
        program = subprocess.Popen(["sleep", "60"], stdin=node)
    device.opened.callback(program.wait)
    device.opened.callback(program.kill)
    device.settings["source"] = {"kind": "opencv", "device": "/dev/zero"}


def no_light(device: Device) -> None:
    for path in (device.folder / "images").iterdir():
        path.write_bytes(_png(np.full((480, 640, 3), 3, np.uint8)))


def too_much_light(device: Device) -> None:
    for path in (device.folder / "images").iterdir():
        path.write_bytes(_png(np.full((480, 640, 3), 255, np.uint8)))


def a_frozen_picture(device: Device) -> None:
    camera = StillCamera(_fields()[0])
    device.opened.callback(camera.close)
    device.settings["source"] = {
        "kind": "opencv",
        "device": f"http://127.0.0.1:{camera.server_address[1]}/stream.mjpg",
    }


def an_empty_folder(device: Device) -> None:
    shutil.rmtree(device.folder / "images")


def another_frame_size(device: Device) -> None:
    record = ProfileRecord(
        width_px=1920, height_px=1200, pixel_size_um=0.07, created_at=clock.utc_now()
    )
    save_profile(device.folder / "profile", record)


def an_altered_model(device: Device) -> None:
    bundle = device.folder / "bundle"
    shutil.copytree(CLASSIFIER, bundle)
    content = bytearray((bundle / "model.onnx").read_bytes())
    content[1000] ^= 1
    (bundle / "model.onnx").write_bytes(content)
    device.settings["model"] = {"bundle": "bundle"}


def the_locator_as_the_classifier(device: Device) -> None:
    device.settings["model"] = {"bundle": str(LOCATOR)}


def no_gpu(device: Device) -> None:
    device.settings["model"] = {"engine": "tensorrt"}


def a_precision_that_was_not_exported(device: Device) -> None:
    device.settings["model"] = {"precision": "int8"}


def an_altered_flat_field(device: Device) -> None:
    with (device.folder / "profile" / "flat_field.npy").open("ab") as file:
        file.write(b"x")


def an_old_calibration(device: Device) -> None:
    then = clock.utc_now().replace(year=clock.utc_now().year - 2, day=1)
    save_profile(device.folder / "profile", ProfileRecord(created_at=then))


def no_calibration(device: Device) -> None:
    del device.settings["profile"]


def an_altered_row(device: Device) -> None:
    with closing(sqlite3.connect(device.folder / "ledger" / "ledger.sqlite")) as db, db:
        db.execute(
            "UPDATE rows SET data = "
            "CAST(replace(CAST(data AS TEXT), 'RBC', 'WBC') AS BLOB) "
            "WHERE seq = 2"
        )


def no_database(device: Device) -> None:
    (device.folder / "ledger" / "ledger.sqlite").write_bytes(b"nonsense" * 500)


def the_ledger_of_another_device(device: Device) -> None:
    device.settings["device"] = "scope-02"


def a_run_that_died(device: Device) -> None:
    record_failure(device.folder / "ledger", "acquisition stopped: it was killed")


def rows_that_nobody_publishes(device: Device) -> None:
    shutil.rmtree(device.folder / "ledger")
    device.write_rows(8, utc=clock.utc_now().replace(year=2025, month=3, day=1))
    (device.folder / "ledger" / "cursor.json").unlink()


def a_raised_alarm(device: Device) -> None:
    ledger = Ledger(device.folder / "ledger", DEVICE)
    ledger.append(
        Alarm(
            severity="red",
            code="no-frames",
            text="no frame for 12 s",
            advice="check the camera's cable and power",
            since=clock.utc_now(),
        )
    )
    ledger.close()


def no_broker(device: Device) -> None:
    device.settings["broker"]["port"] = free_port()


def an_unknown_host(device: Device) -> None:
    device.settings["broker"]["host"] = "lab-server.invalid"


def a_wrong_password(device: Device) -> None:
    (device.folder / "password").write_text("not the password")


def no_password(device: Device) -> None:
    (device.folder / "password").unlink()


def the_name_of_somebody_else(device: Device) -> None:
    device.settings["device"] = "scope-07"
    shutil.rmtree(device.folder / "ledger")


def another_authority(device: Device) -> None:
    made = device.folder / "other"
    script = SHIPPED / "make-certificates.sh"
    subprocess.run([script, made, "broker", "localhost"], check=True)
    shutil.copy(made / "ca.pem", device.folder / "ca.pem")


def a_certificate_for_another_name(device: Device) -> None:
    device.settings["broker"]["host"] = "127.0.0.2"
    server = Forwarder("127.0.0.2", device.broker.ports["tls"])
    device.opened.callback(server.close)
    device.settings["broker"]["port"] = server.port


def a_certificate_that_ends_soon(device: Device) -> None:
    _own_certificate(device, days="9")


def _own_certificate(device: Device, days: str) -> None:
    subprocess.run(
        [SHIPPED / "make-certificates.sh", device.folder / "own", "client", DEVICE],
        check=True,
        env=os.environ | {"DAYS": days},
    )
    own = device.folder / "own" / DEVICE
    device.settings["broker"] |= {"cert": f"{own}.pem", "key": f"{own}.key"}


def the_certificate_listener_with_a_password(device: Device) -> None:
    device.settings["broker"]["port"] = device.broker.ports["certificate"]


def a_web_server_in_place_of_a_broker(device: Device) -> None:
    server = StillCamera(b"")
    device.opened.callback(server.close)
    device.settings["broker"] = {"port": server.server_address[1]}


def a_password_that_everybody_reads(device: Device) -> None:
    (device.folder / "password").chmod(0o644)


def settings_that_everybody_changes(device: Device) -> None:
    device.config().chmod(0o666)


def a_disk_that_is_nearly_full(device: Device) -> None:
    """Every disk is nearly full if the limit is zero."""
    device.settings["alarms"] = {"disk_share": [0.0, 0.0]}


@dataclass(frozen=True)
class Broken:
    """How a device is broken, which check finds it, and what it must find."""

    how: Callable[[Device], None]
    name: str
    status: Status
    found: str
    remedy: str

    @property
    def title(self) -> str:
        return self.how.__name__.replace("_", " ").capitalize()


BROKEN = [
    Broken(
        an_unknown_setting,
        "settings",
        "fault",
        "device.toml:[0-9]+: .*worker",
        "--check",
    ),
    Broken(no_toml, "settings", "fault", "device.toml:1: not TOML", "--check"),
    Broken(no_camera, "camera", "fault", "/dev/video9 does not exist", "plug"),
    Broken(a_camera_in_use, "camera", "fault", r"used by process \d+ \(sleep\)", "end"),
    Broken(no_light, "camera", "fault", r"dark: brightness 0\.01", "lamp"),
    Broken(too_much_light, "camera", "fault", "100 % of the counts", "exposure"),
    Broken(a_frozen_picture, "camera", "fault", "5 frames are identical", "unplug"),
    Broken(an_empty_folder, "camera", "fault", "images: No such", "folder"),
    Broken(another_frame_size, "camera", "fault", "640x480 .* 1920x1200", "calibrate"),
    Broken(an_altered_model, "bundle", "fault", "model.onnx: sha256 is", "altered"),
    Broken(the_locator_as_the_classifier, "bundle", "fault", "'location'", "locator"),
    Broken(no_gpu, "engine", "fault", "no NVIDIA driver", "onnxruntime"),
    Broken(
        a_precision_that_was_not_exported, "bundle", "fault", "no int8", "--precision"
    ),
    Broken(an_altered_flat_field, "calibration", "fault", "flat_field.npy", "restore"),
    Broken(an_old_calibration, "calibration", "warning", "days old", "again"),
    Broken(no_calibration, "calibration", "warning", "no profile", "calibrate field"),
    Broken(an_altered_row, "ledger", "fault", "row 2 was altered", "do not delete"),
    Broken(no_database, "ledger", "fault", "not a database", "disk|folder"),
    Broken(the_ledger_of_another_device, "ledger", "fault", "'scope-01', not", "own"),
    Broken(a_run_that_died, "ledger", "fault", "it was killed", "start run again"),
    Broken(
        rows_that_nobody_publishes,
        "ledger",
        "warning",
        "8 rows exist only here.*no process publishes",
        "start hemascope-publish",
    ),
    Broken(a_raised_alarm, "alarms", "fault", "no-frames since", "cable and power"),
    Broken(no_broker, "broker", "fault", "does not answer", "start mosquitto"),
    Broken(an_unknown_host, "broker", "fault", "'lab-server.invalid'", "host"),
    Broken(a_wrong_password, "broker", "fault", "refuses us: Not auth", "password"),
    Broken(no_password, "broker", "fault", "password", r"\[broker\]"),
    Broken(the_name_of_somebody_else, "broker", "fault", "scope-07/metrics", "by name"),
    Broken(another_authority, "broker", "fault", "unable to get|self.signed", "ca.pem"),
    Broken(
        a_certificate_for_another_name, "broker", "fault", "IP address mis", "address"
    ),
    Broken(
        a_certificate_that_ends_soon,
        "broker",
        "warning",
        "device's certif.* 8 days",
        "new",
    ),
    Broken(
        the_certificate_listener_with_a_password, "broker", "fault", "closed", "log"
    ),
    Broken(
        a_web_server_in_place_of_a_broker, "broker", "fault", "closed|no answer", "."
    ),
    Broken(a_password_that_everybody_reads, "permissions", "fault", "644", "chmod 600"),
    Broken(
        settings_that_everybody_changes, "permissions", "fault", "may change", "chmod"
    ),
    Broken(a_disk_that_is_nearly_full, "disk", "fault", "% used", "archive back"),
]


class StillCamera(http.server.ThreadingHTTPServer):
    """A network camera whose picture, a PNG or JPEG, never changes."""

    daemon_threads = True

    def __init__(self, picture: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Still)
        self.is_on = True
        bgr = cv2.imdecode(np.frombuffer(picture, np.uint8), 1) if picture else None
        self.jpeg = b"" if bgr is None else bytes(cv2.imencode(".jpg", bgr)[1])
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.is_on = False
        self.shutdown()
        self.server_close()


class _Still(http.server.BaseHTTPRequestHandler):
    server: StillCamera

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        jpeg = self.server.jpeg
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}"
        while self.server.is_on:
            try:
                self.wfile.write(head.encode() + b"\r\n\r\n" + jpeg + b"\r\n")
            except OSError:
                return
            time.sleep(0.04)

    def log_message(self, *_: object) -> None:
        pass


class Forwarder:
    """Passes connections to an address on to a port of 127.0.0.1, as a router would."""

    def __init__(self, host: str, port: int) -> None:
        self._server = socket.create_server((host, 0))
        self.port = self._server.getsockname()[1]
        self._target = port
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self._server.accept()
            except OSError:
                return
            two = socket.create_connection(("127.0.0.1", self._target))
            for a, b in ((one, two), (two, one)):
                threading.Thread(target=_pass_on, args=(a, b), daemon=True).start()

    def close(self) -> None:
        self._server.close()


def _pass_on(source: Any, target: Any) -> None:
    with source, target:
        while True:
            try:
                data = source.recv(65536)
                if not data:
                    return
                target.sendall(data)
            except OSError:
                return


# -- the page --------------------------------------------------------------------------

SHOWN = [
    an_unknown_setting,
    no_camera,
    a_camera_in_use,
    no_light,
    an_altered_model,
    an_altered_flat_field,
    an_altered_row,
    rows_that_nobody_publishes,
    a_wrong_password,
    another_authority,
    a_certificate_that_ends_soon,
    a_password_that_everybody_reads,
]


WIDTH = 96
_MARK = "# Broken on purpose\n"  # the rest of the page is written by `write_page`
_INTRODUCTION = """
This is real output. `python -m tests.broken` breaks a device in each of these ways and
writes what doctor finds; the tests compare every line with what doctor finds today. The
device is in the folder `/tmp/device`.
"""


def shown(findings: tuple[Finding, ...]) -> str:
    """Return findings as the command prints them into a file."""
    console = Console(width=WIDTH, file=io.StringIO(), record=True)
    console.print(table_of(findings))
    lines = console.export_text(styles=False).splitlines()
    return "\n".join(line.rstrip() for line in lines)


def without_addresses(
    findings: tuple[Finding, ...], device: Device
) -> tuple[Finding, ...]:
    """Replace the folder and the port, which differ in each test."""
    text = msgspec.json.encode(findings).decode()
    text = text.replace(str(device.folder), "/tmp/device")  # noqa: S108 only a name
    text = text.replace(f":{device.broker.ports['tls']} ", ":8883 ")
    text = text.replace(f":{device.broker.ports['tls']}:", ":8883:")
    return msgspec.json.decode(text, type=tuple[Finding, ...])


def essence(text: str) -> str:
    """Return a text without what differs each time: numbers, line ends, cameras."""
    text = re.sub(r"\s+", "", text)
    text = re.sub(r"camerashere:.*?→", "→", text)
    return re.sub(r"[0-9a-f]{8,}…?|\d+", "0", text)


def write_page(path: Path) -> None:
    """Break a device in each way of `SHOWN`, and write what doctor finds."""
    before, mark, _ = path.read_text(encoding="utf-8").partition(_MARK)
    parts = [before + mark + _INTRODUCTION]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        broker = start_shipped(_made(Path(folder) / "broker"))
        opened.callback(broker.close)
        well = Device(Path(folder) / "well", broker)
        parts.append(_part("A device that is well", well, ()))
        for number, one in enumerate(b for b in BROKEN if b.how in SHOWN):
            device = Device(Path(folder) / f"{number}", broker)
            opened.callback(device.close)
            one.how(device)
            parts.append(_part(one.title, device, (one.name,)))
    path.write_text("\n".join(parts), encoding="utf-8")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _part(title: str, device: Device, names: tuple[str, ...]) -> str:
    report = examine_device(device.config(), names)
    only = "".join(f" --only {name}" for name in names)
    text = shown(without_addresses(report.findings, device))
    code = 1 if report.status == "fault" else 0
    return (
        f"## {title}\n\n```\n$ hemascope doctor --config /tmp/device/device.toml{only}"
        f"\n{text}\n$ echo $?\n{code}\n```\n"
    )


if __name__ == "__main__":
    write_page(PAGE)
