"""The desk between camera and workers: only the newest exposure lies on it."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

from edge.frames import Exposure, Gap

MOST_PLANNED = 4  # a frame that takes long must not stop the camera from being read


@dataclass(frozen=True, slots=True)
class QueuedFrame:
    """One thing to say something of, with its place in the order of results.

    `passed_over` counts the exposures that were replaced before anybody took them.
    """

    number: int
    item: Exposure | Gap
    passed_over: int
    waited_ms: float


class FrameQueue:
    """Shared by one camera thread and several workers.

    A live exposure replaces one that nobody has taken yet: it is dropped before it is
    decoded. A recorded one waits until the last has been taken. Planned ones are never
    dropped; the next waits where `MOST_PLANNED` lie here. Nor are gaps.

    `most_out`: so many tickets may be taken and not over, so that frames which wait for
    an earlier one neither grow old nor fill the memory.
    """

    def __init__(
        self,
        *,
        is_live: bool,
        most_frames: int | None = None,
        most_out: int | None = None,
    ) -> None:
        self._is_live = is_live
        self._left, self._most_out = most_frames, most_out
        self._items: deque[tuple[Exposure | Gap, float]] = deque()
        self._changed = threading.Condition()
        self._number = self._over = 0
        self._passed_over = 0
        self._is_closed = False

    def put(self, item: Exposure | Gap) -> bool:
        """Lay something on the desk; False once nobody will take it any more."""
        with self._changed:
            if isinstance(item, Exposure):
                self._make_room()
            if self._is_closed:
                return False
            self._items.append((item, time.monotonic()))
            self._changed.notify_all()
            return True

    def take(self) -> QueuedFrame | None:
        """Take what has lain longest, waiting for it; None when the desk is closed."""
        with self._changed:
            while not self._items or self._is_full:
                if self._is_closed and not self._items:
                    return None
                self._changed.wait()
            item, since_s = self._items.popleft()
            waited_ms = round((time.monotonic() - since_s) * 1e3, 3)
            ticket = QueuedFrame(self._number, item, self._passed_over, waited_ms)
            self._number += 1
            if isinstance(item, Exposure):
                self._passed_over = 0
                self._count_down()
            self._changed.notify_all()
            return ticket

    def finish(self) -> None:
        """Know that one more ticket is over."""
        with self._changed:
            self._over += 1
            self._changed.notify_all()

    @property
    def _is_full(self) -> bool:
        """Whether too many tickets are out; when all is to end that holds nobody up."""
        if self._most_out is None or self._is_closed:
            return False
        return self._number - self._over >= self._most_out

    @property
    def is_empty(self) -> bool:
        """Whether nothing lies here."""
        with self._changed:
            return not self._items

    @property
    def taken(self) -> int:
        """How many tickets have been taken."""
        return self._number

    def close(self) -> None:
        """Let workers finish what lies here and then go home."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _make_room(self) -> None:
        """Remove the exposure that lies here, or wait until it has been taken."""
        while not self._is_closed:
            lying = [e for e in self._items if isinstance(e[0], Exposure)]
            planned = [e for e in lying if e[0].planned is not None]
            if not lying or 0 < len(planned) < MOST_PLANNED:
                return
            if self._is_live and not planned:
                self._items.remove(lying[0])
                self._passed_over += 1
                return
            self._changed.wait()

    def _count_down(self) -> None:
        if self._left is None:
            return
        self._left -= 1
        if self._left <= 0:
            self._is_closed = True
            self._items.clear()
