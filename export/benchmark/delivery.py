"""Measure delivery: from a result to the acknowledgement of its row in the archive."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from edge.archive.receiver import Archive
from edge.archive.store import Store
from edge.delivery.publisher import Publisher
from edge.demo.broker import start_broker
from edge.ledger.writer import Ledger
from edge.mqtt import Link, Message, topic
from edge.schema.codec import decode
from edge.schema.messages import Ack
from edge.schema.results import FrameResult
from edge.settings.delivery import BrokerSettings, PublishSettings
from export.benchmark.interleaved_timing import Figure, at_most, spread

_DEVICE, _RATE_HZ = "bench", 20


def measure_delivery(frame_result: FrameResult, rows: int) -> list[Figure]:
    """Write results at the rate of a camera and wait for each acknowledgement.

    Broker, publisher and archive run on this machine, on the loopback network.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, stop = Path(name), threading.Event()
        broker = start_broker(folder)
        address = BrokerSettings(port=broker.port)
        ledger = Ledger(folder / "ledger", _DEVICE)
        threads = [
            threading.Thread(target=_archive, args=(folder, address, stop)),
            threading.Thread(target=_publish, args=(folder, address, stop)),
        ]
        for thread in threads:
            thread.start()
        listener = Link(address, "bench-listener", [topic(_DEVICE, "ack")])
        spent_ms = [
            _deliver(lambda: ledger.append(frame_result).seq, listener)
            for _ in range(rows)
        ]
        stop.set()
        listener.close()
        for thread in threads:
            thread.join()
        ledger.close()
        broker.close()
    this = spread(spent_ms[rows // 10 :])
    detail = f"{this} ms with {len(frame_result.cells)} cells; {broker.description}"
    return [
        at_most("result to acknowledged archive row, p50 ms", this.median, 50, detail)
    ]


def _archive(folder: Path, address: BrokerSettings, stop: threading.Event) -> None:
    """Run an archive until `stop` is set."""
    store = Store(folder / "archive.sqlite")
    Archive(store, address, "archive").run(stop)
    store.close()


def _publish(folder: Path, address: BrokerSettings, stop: threading.Event) -> None:
    """Run a publisher until `stop` is set."""
    Publisher(folder / "ledger", address, PublishSettings()).run(stop)


def _deliver(append: Callable[[], int], listener: Link) -> float:
    """Milliseconds from appending a result to the ledger to its acknowledgement."""
    start = time.perf_counter()
    seq = append()
    while True:
        for event in listener.poll(0.02):
            if isinstance(event, Message) and decode(event.payload, Ack).upto >= seq:
                spent_s = time.perf_counter() - start
                time.sleep(max(0.0, 1 / _RATE_HZ - spent_s))
                return spent_s * 1e3
