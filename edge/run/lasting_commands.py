"""Commands that take longer than a moment: the snapshot and the self-test.

Each answers with a future; the command executor writes down what becomes of it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from edge.acquisition.pausable_source import PausableSource
from edge.frames import Counts
from edge.ledger.rows import LedgerRow
from edge.remote.command_executor import CommandFailed
from edge.rendering.annotation import draw, to_jpeg
from edge.schema.requests import Request
from edge.schema.results import FrameResult

log = logging.getLogger(__name__)

SNAPSHOTS = "snapshots"
_MAX_SNAPSHOT_BYTES = 4 << 20


class Snapshots:
    """Keeps the annotated picture of the next frame when somebody asks for it.

    `is_wanted` and `draw` are for the workers, `ask` and `keep` for the main thread.

    Parameters
    ----------
    folder
        The ledger's; pictures are kept in its sub-folder `snapshots`.
    source
        Tells whether a next frame will come.
    keep
        How many pictures are kept, the newest ones.
    """

    def __init__(self, folder: Path, source: PausableSource, keep: int) -> None:
        self._folder, self._source, self._keep = folder / SNAPSHOTS, source, keep
        self._asked: Future[str] | None = None

    def ask(self, request: Request) -> Future[str]:
        """Keep the picture of the next frame that is examined."""
        if self._source.is_paused:
            raise CommandFailed("nothing is examined now, there is no next frame")
        if self._asked is None or self._asked.done():
            self._asked = Future()
        return self._asked

    @property
    def is_wanted(self) -> bool:
        """Whether the frame in hand shall be kept as a picture."""
        return self._asked is not None and not self._asked.cancelled()

    def draw(self, pixels: Counts, result: FrameResult) -> bytes | None:
        """Draw a frame (H, W, 3) in full size as JPEG; never raises."""
        try:
            return to_jpeg(draw(pixels, result), _MAX_SNAPSHOT_BYTES)
        except Exception:
            log.exception("sequence=%d snapshot not drawn", result.frame.first)
            return None

    def keep(self, row: LedgerRow, picture: bytes) -> None:
        """Keep the picture of a row that was written, if it is still asked for."""
        asked, self._asked = self._asked, None
        if asked is None or not asked.set_running_or_notify_cancel():
            return
        name = f"row-{row.seq:012d}.jpg"
        try:
            self._folder.mkdir(exist_ok=True)
            (self._folder / name).write_bytes(picture)
            for path in sorted(self._folder.glob("row-*.jpg"))[: -self._keep]:
                path.unlink()
        except OSError as error:
            asked.set_exception(CommandFailed(f"the picture is not kept: {error}"))
            return
        asked.set_result(
            f"the picture of row {row.seq} is kept, {len(picture)} bytes, "
            f"{SNAPSHOTS}/{name} beside the ledger"
        )


class SelfTest:
    """Reads the models again, and compares what they say of their golden inputs.

    `start` is for the main thread; the test runs in a thread of its own.
    """

    def __init__(self, test: Callable[[], str]) -> None:
        self._test = test
        self._running: Future[str] | None = None

    def start(self, request: Request) -> Future[str]:
        """Begin a test, unless one is at work."""
        if self._running is not None and not self._running.done():
            raise CommandFailed("a self-test is at work already")
        self._running = Future()
        threading.Thread(
            target=_run_into, args=(self._running, self._test), name="test", daemon=True
        ).start()
        return self._running


def _run_into(future: Future[str], work: Callable[[], str]) -> None:
    """Run `work` into its future, also when it fails or nobody waits any more."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except Exception as error:
        log.exception("a self-test failed")
        future.set_exception(error)
