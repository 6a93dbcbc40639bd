"""The demonstration is all programs at work: what a new user sees first."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from edge.archive.store import Chain, Store
from edge.demo.broker import free_port
from edge.ledger.reader import LedgerReader
from edge.schema.entries import read_row
from edge.schema.results import Result


def test_a_demonstration_ends_by_itself_with_nothing_lost(tmp_path: Path) -> None:
    page = free_port()
    demo = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "edge",
            "demo",
            "--frames",
            "60",
            "--no-open",
            "--page",
            str(page),
            "--folder",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    cells_after_s = _seconds_until_cells_are_named(page)
    output, _ = demo.communicate(timeout=120)

    assert demo.returncode == 0, output
    summary = re.search(
        r"frames (\d+) \| cells: (.+) \| counted once: (.+) \| "
        r"results written (\d+), published (\d+), archived (\d+), lost (\d+)",
        output,
    )
    assert summary, output
    frames, cells, once, written, published, archived, lost = summary.groups()
    assert (frames, lost) == ("60", "0")
    assert written == published == archived
    assert re.search(r"RBC \d{3,}", cells)
    assert re.search(r"WBC \d{2,}", cells)
    assert re.search(r"RBC \d{2,3}, WBC \d+, Platelet \d+", once)
    assert cells_after_s < 60
    reader, store = (
        LedgerReader(tmp_path / "ledger"),
        Store(tmp_path / "archive.sqlite"),
    )
    chain = Chain(reader.device, reader.epoch)
    assert list(store.rows(chain)) == reader.rows(0, 1000)
    assert store.verify(chain) is None
    reader.close()
    store.close()


def _seconds_until_cells_are_named(page: int) -> float:
    """Until the page shows a picture and counts, as a person would wait for it."""
    start = time.monotonic()
    while time.monotonic() - start < 90:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{page}/events", timeout=5
            ) as events:
                for line in events:
                    if not line.startswith(b"data: {"):
                        continue
                    devices = json.loads(line[6:]).get("devices", [])
                    if devices and devices[0]["cells"] and devices[0]["preview_seq"]:
                        return time.monotonic() - start
        except OSError:
            time.sleep(0.2)
    return time.monotonic() - start


def test_interrupting_a_demonstration_still_delivers_everything(
    tmp_path: Path,
) -> None:
    demo = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "edge",
            "demo",
            "--no-open",
            "--page",
            "0",
            "--folder",
            tmp_path.name,  # relative, as a person types it
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=tmp_path.parent,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (tmp_path / "archive.sqlite").exists():
        time.sleep(0.2)
    time.sleep(6)
    for _ in range(2):  # Ctrl-C reaches every process of the terminal, some twice
        os.killpg(demo.pid, signal.SIGINT)
    output, _ = demo.communicate(timeout=60)

    assert demo.returncode == 0, output
    assert "lost 0" in output


def test_a_time_lapse_ends_with_the_page_of_its_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edge", "demo", "--timelapse", "--frames", "12"]
    command += ["--no-open", "--page", str(free_port()), "--folder", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    (page,) = tmp_path.glob("*/report.html")
    result = page.read_text("utf-8")
    assert "rnn-change@" in result
    assert "<td>12</td>" in result.replace("\n", "")
    reader = LedgerReader(tmp_path / "ledger")
    rows = [read_row(row.data) for row in reader.rows(0, 100)]
    reader.close()
    frames = [row for row in rows if isinstance(row, Result) and row.point is not None]
    assert len(frames) == 12
    assert any(cell.track_id for cell in frames[-1].cells)
