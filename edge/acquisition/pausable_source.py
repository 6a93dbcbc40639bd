"""A source that can be paused."""

from __future__ import annotations

import threading
import time

from edge.clock import utc_of
from edge.frames import Exposure, Gap, Source


class PausableSource:
    """Gives no frames while paused, and a gap afterwards that says how many came.

    A live camera is still read, so that its buffers hold nothing old and its loss is
    seen; a recording waits. `pause` and `resume` may be called from any thread.
    """

    def __init__(self, source: Source, *, is_paused: bool = False) -> None:
        self._source = source
        self._may_run = threading.Event()
        if not is_paused:
            self._may_run.set()
        self._waiting: Exposure | None = None
        self._first_dropped: int | None = None
        self._dropped = 0
        self._paused_at_s = time.monotonic()

    @property
    def is_live(self) -> bool:
        """As the source is."""
        return self._source.is_live

    @property
    def is_paused(self) -> bool:
        """Whether frames are held back."""
        return not self._may_run.is_set()

    def pause(self) -> None:
        """Give no frames from now on."""
        if not self.is_paused:
            self._paused_at_s = time.monotonic()
            self._may_run.clear()

    def resume(self) -> None:
        """Give frames again."""
        self._may_run.set()

    def read(self, timeout_s: float) -> Exposure | Gap | None:
        """Return what comes next; no exposures while paused. See `Source.read`."""
        if self.is_paused and not self.is_live:
            self._may_run.wait(timeout_s)
            return None
        item: Exposure | Gap | None = self._waiting
        if item is not None and not self.is_paused:
            self._waiting = None
            return item
        item, self._waiting = item or self._source.read(timeout_s), None
        if not isinstance(item, Exposure):
            return item
        if self.is_paused:
            self._first_dropped = (
                item.shot.sequence
                if self._first_dropped is None
                else self._first_dropped
            )
            self._dropped += 1
            return None
        return self._after_pause(item)

    def close(self) -> None:
        """Release the device."""
        self._source.close()

    def _after_pause(self, exposure: Exposure) -> Exposure | Gap:
        """Return first a gap of the frames that came during the pause."""
        if self._first_dropped is None:
            return exposure
        first, dropped = self._first_dropped, self._dropped
        self._waiting, self._first_dropped, self._dropped = exposure, None, 0
        paused_s = time.monotonic() - self._paused_at_s
        reason = f"held by command for {paused_s:.1f} s"
        now_ns = time.monotonic_ns()
        return Gap(first, dropped, reason, now_ns, utc_of(now_ns))
