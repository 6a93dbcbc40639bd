"""Negative controls: each breaks one promise, and the comparison must notice it.

python -m tests.chaos.controls archive --config FILE   acknowledges, then stores
python -m tests.chaos.controls publish --config FILE   takes what is sent as stored
"""

from __future__ import annotations

import hashlib
import random
import sqlite3
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import msgspec

from edge.archive.receiver import Archive
from edge.archive.store import Chain, Store, StoreOutcome
from edge.delivery.publisher import Publisher
from edge.mqtt import Link, Message
from edge.schema.codec import decode, encode, read_toml
from edge.schema.results import Result
from edge.settings.files import ArchiveFile, DeviceFile
from tests.chaos.site import Site, pause
from tests.chaos.writer import LEDGER

CONTROLS = ("acknowledge-first", "cursor-ahead", "rewritten-rows")
_COMMIT_PERIOD_S = 4.0


class LateStore(Store):
    """Says that it has stored rows, and commits them seconds later."""

    _committed_s = 0.0

    def store_messages(self, messages: Iterable[Message]) -> dict[Chain, StoreOutcome]:
        outcomes: dict[Chain, StoreOutcome] = {}
        for message in messages:
            chain, outcome = self._store_message(message)
            if chain is not None:
                outcomes[chain] = outcome
        if time.monotonic() - self._committed_s > _COMMIT_PERIOD_S:
            self._committed_s = time.monotonic()
            self._db.commit()
        return outcomes


class HastyPublisher(Publisher):
    """Takes a row for archived as soon as it is sent."""

    def _send_rows(self, link: Link) -> None:
        super()._send_rows(link)
        if self._sent > self._cursor.upto:
            sha256 = self._ledger.sha256(self._sent) or self._cursor.hash
            self._cursor = msgspec.structs.replace(
                self._cursor, upto=self._sent, hash=sha256
            )


def rewrite_rows(site: Site, _rng: random.Random) -> None:
    """Write rows of the ledger anew that no archive has yet, with a chain that fits."""
    site.kill("archive")
    pause(1.0)
    site.end("writer")
    previous = ""
    with closing(sqlite3.connect(site.folder / LEDGER / "ledger.sqlite")) as db, db:
        for seq, data in db.execute(
            "SELECT seq, data FROM rows WHERE seq > ? ORDER BY seq",
            (site.newest_archived(),),
        ).fetchall():
            row = decode(data, Result)
            changed = encode(
                msgspec.structs.replace(
                    row, monotonic_ns=row.monotonic_ns + 1, prev=previous or row.prev
                )
            )
            previous = hashlib.sha256(changed).hexdigest()
            db.execute(
                "UPDATE rows SET data = ?, sha256 = ? WHERE seq = ?",
                (changed, previous, seq),
            )
    site.start("writer")
    site.start("archive")


def _main(program: str, config: Path) -> None:
    never = threading.Event()  # SIGTERM ends it without more ado
    if program == "archive":
        server = read_toml(config, ArchiveFile)
        store = LateStore(server.archive.file)
        Archive(store, server.broker, server.archive.client_id).run(never)
    device = read_toml(config, DeviceFile)
    HastyPublisher(device.ledger.folder, device.broker, device.publish).run(never)


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[3]))
