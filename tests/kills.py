"""Kill `run` and `publish` at random moments while notes are asked for.

    python -m tests.kills --kills 40

Every note must stand in the ledger once if a row says that it was done, and not at all
if none does; what the asker was told must be what the rows say.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from edge.demo.broker import Mosquitto, start_broker
from edge.errors import HemascopeError
from edge.remote.client import NoAnswer, new_request, send_request
from edge.schema.codec import write_toml
from edge.settings.delivery import BrokerSettings, CommandSettings
from edge.settings.files import DeviceFile
from edge.settings.run import LedgerSettings, RunSettings
from edge.settings.sources import SimulatedSettings
from tests.asking import DEVICE, audits_in, notes_in


def kill_at_random(folder: Path, kills: int, seed: int) -> dict[str, object]:
    """Return what became of the notes; raises `AssertionError` if one is not right."""
    rng = random.Random(seed)  # noqa: S311
    broker = start_broker(folder)
    assert isinstance(broker, Mosquitto), "mosquitto is not installed"
    address = BrokerSettings(port=broker.port, keepalive_s=2)
    write_toml(
        folder / "device.toml",
        DeviceFile(
            device=DEVICE,
            source=SimulatedSettings(width_px=320, height_px=240, rate_hz=5),
            ledger=LedgerSettings(folder / "ledger"),
            run=RunSettings(workers=1),
            commands=CommandSettings(allow=("note",)),
            broker=address,
        ),
    )
    told: dict[str, str] = {}
    done = threading.Event()
    asker = threading.Thread(target=_keep_asking, args=(address, told, done))
    running = {"run": _start(folder, "run")}
    while not (folder / "ledger" / "metrics.json").exists():
        time.sleep(0.1)
    running["publish"] = _start(folder, "publish")
    asker.start()
    for _ in range(kills):
        time.sleep(rng.uniform(1.0, 9.0))
        name = rng.choice(["run", "publish"])
        running[name].send_signal(signal.SIGKILL)
        running[name].wait()
        running[name] = _start(folder, name)
    time.sleep(10)
    done.set()
    asker.join()
    for process in running.values():
        process.terminate()
        process.wait()
    broker.close()
    return _verdict(folder / "ledger", told)


def _start(folder: Path, name: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "edge", name]
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [*command, "--config", str(folder / "device.toml")], stdout=log, stderr=log
        )


def _keep_asking(
    address: BrokerSettings, told: dict[str, str], done: threading.Event
) -> None:
    number = 0
    while not done.wait(0.2):
        number += 1
        text = f"note {number}"
        try:
            request = new_request("note", "anna", text, lifetime_s=20)
            *_, last = send_request(address, DEVICE, "note", request, timeout_s=3)
            told[text] = last.outcome
        except NoAnswer:
            told[text] = "nobody knows"
        except HemascopeError as error:
            told[text] = f"not asked: {error}"


def _verdict(ledger: Path, told: dict[str, str]) -> dict[str, object]:
    notes, audits = Counter(notes_in(ledger)), audits_in(ledger)
    outcomes = Counter(a.outcome for a in audits)
    assert max(notes.values()) == 1, "a note stands twice"
    assert outcomes["done"] == len(notes), "rows and effects do not agree"
    for text, outcome in told.items():
        if outcome == "done":
            assert notes[text] == 1, f"{text} was said to be done and is not there"
        elif outcome in ("refused", "failed") or outcome.startswith("not asked"):
            assert notes[text] == 0, f"{text} is there and was said to be {outcome}"
    unknown = [text for text, outcome in told.items() if outcome == "nobody knows"]
    return {
        "asked": len(told),
        "told": dict(Counter(outcome.split(":")[0] for outcome in told.values())),
        "rows": dict(outcomes),
        "notes": len(notes),
        "of those that nobody knew, done once": sum(notes[text] for text in unknown),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hemascope-kills-") as made:
        figures = kill_at_random(Path(made), options.kills, options.seed)
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
