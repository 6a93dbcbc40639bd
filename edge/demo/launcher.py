"""Run all programs on one machine: simulated microscope, broker, archive, page.

The programs are those that a laboratory runs, each in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge.archive.store import Chain, Store
from edge.dashboard.observer import Observer
from edge.dashboard.terminal import watch
from edge.demo.broker import start_broker
from edge.errors import HemascopeError
from edge.ledger.reader import LedgerReader
from edge.ledger.rows import LEDGER_FILE
from edge.schema.codec import write_toml
from edge.schema.entries import read_row
from edge.schema.requests import COMMANDS
from edge.schema.results import Differential, Result
from edge.settings.delivery import BrokerSettings, CommandSettings
from edge.settings.files import ArchiveFile, ArchiveSettings, DeviceFile
from edge.settings.models import SequenceSettings
from edge.settings.run import LedgerSettings, RunSettings
from edge.settings.sources import SimulatedSettings
from edge.settings.timelapse import ScheduleSettings, TrackingSettings

DEVICE = "demo"
LEDGER, ARCHIVE = "ledger", "archive.sqlite"  # inside the folder of the demo
_DELIVERY_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0
_POLL_S = 0.25


class DemoFailed(HemascopeError):
    """One of the programs ended before it should."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a demonstration did. `lost` rows are in the ledger, not in the archive.

    `cells` are summed over all frames; `counted` counts each cell once.
    """

    frames: int
    cells: Counter[str]
    counted: Differential | None
    written: int
    published: int
    archived: int
    lost: int

    def __str__(self) -> str:
        """One line for the terminal."""
        cells = ", ".join(f"{name} {count}" for name, count in self.cells.most_common())
        classes = () if self.counted is None else self.counted.classes
        counted = ", ".join(f"{one.label} {one.count}" for one in classes)
        return (
            f"frames {self.frames} | cells: {cells or 'none'} | counted once: "
            f"{counted or 'none'} | results written "
            f"{self.written}, published {self.published}, archived {self.archived}, "
            f"lost {self.lost}"
        )


def run_demo(
    folder: Path,
    source: SimulatedSettings,
    frames: int | None,
    stop: threading.Event,
    show: Callable[[Observer], None],
    announce: Callable[[str], None],
    *,
    follows: bool = False,
) -> Summary:
    """Run the demonstration until `frames` were examined or `stop`.

    `follows`: cells are followed, at one frame per second.

    Raises
    ------
    DemoFailed
        A program ended with an error; its last messages are in the text.
    BrokerMissing
        There is no broker.
    """
    broker = start_broker(folder)
    announce(f"broker: {broker.description}")
    device_file, archive_file = _write_settings(
        folder, source, broker.port, follows=follows
    )
    watcher = _Watcher(broker.port, show)
    programs: dict[str, _Program] = {}
    try:
        programs["archive"] = _Program("archive", archive_file)
        limit = [] if frames is None else ["--frames", str(frames)]
        programs["run"] = _Program("run", device_file, *limit)
        _await_ledger(folder / LEDGER, programs["run"], stop)
        programs["publish"] = _Program("publish", device_file)
        _await_end(programs, stop)
        programs["run"].stop()
        _await_delivery(folder / LEDGER, folder / ARCHIVE)
        time.sleep(2 * _POLL_S)  # let the watcher see the last row too
    finally:
        for program in programs.values():
            program.stop()
        watcher.stop()
        broker.close()
    return summarise(folder / LEDGER, folder / ARCHIVE, watcher.published_rows)


class _Watcher:
    """Observes the device in a thread, and shows what it sees."""

    def __init__(self, port: int, show: Callable[[Observer], None]) -> None:
        self._show, self._stop = show, threading.Event()
        self._observer = Observer()
        self._thread = threading.Thread(
            target=watch, args=(BrokerSettings(port=port), self._stop, self._keep)
        )
        self._thread.start()

    def _keep(self, observer: Observer) -> None:
        self._observer = observer
        self._show(observer)

    @property
    def published_rows(self) -> int:
        """How many rows the device has published."""
        view = self._observer.devices.get(DEVICE)
        return 0 if view is None else view.rows

    def stop(self) -> None:
        """Stop observing."""
        self._stop.set()
        self._thread.join()


class _Program:
    """One `hemascope` command in a process of its own, its messages in a log file.

    It gets a session of its own, so that Ctrl-C in the terminal reaches this process
    alone, which then ends the programs in order.
    """

    def __init__(self, command: str, settings: Path, *options: str) -> None:
        self.command = command
        self._log = settings.parent / f"{command}.log"
        arguments = [command, "--config", str(settings), *options]
        with self._log.open("wb") as file:
            self._process = subprocess.Popen(  # noqa: S603 our own program
                [sys.executable, "-m", "edge", *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def has_ended(self) -> bool:
        """Return whether it ended without an error.

        Raises
        ------
        DemoFailed
            It ended with an error.
        """
        code = self._process.poll()
        if code not in (None, 0):
            text = self._log.read_text(encoding="utf-8", errors="replace")
            last = "\n".join(text.strip().splitlines()[-8:])
            raise DemoFailed(f"hemascope {self.command} ended with {code}:\n{last}")
        return code == 0

    def stop(self) -> None:
        """End it: ask first, and kill it if it does not end in time."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _write_settings(
    folder: Path, source: SimulatedSettings, port: int, *, follows: bool
) -> tuple[Path, Path]:
    """Write the settings files of the programs and return their paths."""
    broker = BrokerSettings(port=port)
    device = DeviceFile(
        device=DEVICE,
        source=source,
        ledger=LedgerSettings(folder / LEDGER),
        run=RunSettings(preview_hz=4.0),
        commands=CommandSettings(allow=COMMANDS),
        broker=broker,
        tracking=TrackingSettings() if follows else None,
        sequence=SequenceSettings() if follows else None,
        schedule=ScheduleSettings(interval_s=1.0, duration_h=1.0) if follows else None,
    )
    archive = ArchiveFile(archive=ArchiveSettings(folder / ARCHIVE), broker=broker)
    paths = folder / "device.toml", folder / "archive.toml"
    for path, settings in zip(paths, (device, archive), strict=True):
        write_toml(path, settings)
    return paths


def _await_ledger(ledger: Path, run: _Program, stop: threading.Event) -> None:
    """Wait until the run process has created its ledger."""
    while not (ledger / LEDGER_FILE).exists() and not run.has_ended():
        if stop.wait(_POLL_S):
            return


def _await_end(programs: dict[str, _Program], stop: threading.Event) -> None:
    """Wait until the run process has examined its frames, or `stop`."""
    while not stop.wait(_POLL_S):
        for name in ("archive", "publish"):
            if programs[name].has_ended():
                raise DemoFailed(f"hemascope {name} ended before the demonstration did")
        if programs["run"].has_ended():
            return


def _await_delivery(ledger: Path, archive_file: Path) -> None:
    """Wait until the archive has every row, for a limited time."""
    reader, store = LedgerReader(ledger), Store(archive_file)
    _, newest = reader.span()
    deadline = time.monotonic() + _DELIVERY_TIMEOUT_S
    while store.cursor(Chain(reader.device, reader.epoch))[0] < newest:
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL_S)
    reader.close()
    store.close()


def summarise(ledger: Path, archive_file: Path, published: int) -> Summary:
    """Compare the rows of the ledger with those of the archive, byte for byte."""
    reader, store = LedgerReader(ledger), Store(archive_file)
    written = reader.rows(0, sys.maxsize)
    chain = Chain(reader.device, reader.epoch)
    archived = {row.seq: row.data for row in store.rows(chain)}
    cells: Counter[str] = Counter()
    frames, counted = 0, None
    for row in written:
        result = read_row(row.data)
        if isinstance(result, Result):
            cells.update(result.counts)
            frames += result.status != "gap"
            counted = result.differential or counted
    same = sum(archived.get(row.seq) == row.data for row in written)
    return Summary(
        frames=frames,
        cells=cells,
        counted=counted,
        written=len(written),
        published=published,
        archived=same,
        lost=len(written) - same,
    )
