"""The process that writes rows: `python -m tests.chaos.writer FOLDER RATE`."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path

from edge.ledger.writer import Ledger
from tests.chaos.witness import WitnessFile
from tests.conftest import frame_result

DEVICE = "scope-01"
LEDGER, WITNESS = "ledger", "witness"


def write_rows(folder: Path, rate_hz: float) -> None:
    """Append rows until SIGTERM, tell the witness, and delete what is acknowledged.

    Only the last row is kept: whatever was acknowledged by mistake is gone for good.
    """
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    ledger, witness = Ledger(folder / LEDGER, DEVICE), WitnessFile(folder / WITNESS)
    due_s = pruned_s = time.monotonic()
    while not stop.is_set():
        witness.add(ledger.append(frame_result(cells=2 + ledger.seq % 5)))
        if time.monotonic() - pruned_s > 1.0:
            pruned_s = time.monotonic()
            ledger.prune(keep=1)
        # Rows that were due while the process was paused are not made up for.
        due_s = max(due_s + 1 / rate_hz, time.monotonic() - 0.1)
        stop.wait(max(0.0, due_s - time.monotonic()))
    witness.close()
    ledger.close()


if __name__ == "__main__":
    write_rows(Path(sys.argv[1]), float(sys.argv[2]))
