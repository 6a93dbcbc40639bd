"""The queue between the camera and the workers: only the newest live frame waits."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

from edge.frames import Exposure, Gap

MAX_PLANNED = 4  # a frame that takes long must not stop the camera from being read


@dataclass(frozen=True, slots=True)
class QueuedFrame:
    """A frame or gap that a worker took, with its place in the order of results.

    `passed_over` counts the exposures that were replaced before a worker took them.
    """

    number: int
    item: Exposure | Gap
    passed_over: int
    waited_ms: float


class FrameQueue:
    """Shared by one camera thread, several workers and the main thread; locked.

    A live exposure replaces one that no worker has taken yet: it is dropped before it
    is decoded. A recorded one waits until the last has been taken. Planned ones are
    never dropped: the camera thread waits while `MAX_PLANNED` of them are queued. Gaps
    are never dropped either.

    Parameters
    ----------
    is_live
        Whether the source goes on by itself, so that only its newest frame counts.
    max_frames
        Close the queue after so many exposures were taken.
    max_in_work
        So many may be taken and not finished, so that frames which wait for an earlier
        one neither grow old nor fill the memory.
    """

    def __init__(
        self,
        *,
        is_live: bool,
        max_frames: int | None = None,
        max_in_work: int | None = None,
    ) -> None:
        self._is_live = is_live
        self._frames_left, self._max_in_work = max_frames, max_in_work
        self._items: deque[tuple[Exposure | Gap, float]] = deque()
        self._in_work: dict[int, QueuedFrame] = {}
        self._changed = threading.Condition()
        self._next_number = 0
        self._passed_over = 0
        self._is_closed = False

    def put(self, item: Exposure | Gap) -> bool:
        """Queue an item; False once the queue is closed. For the camera thread."""
        with self._changed:
            if isinstance(item, Exposure):
                self._make_room()
            if self._is_closed:
                return False
            self._items.append((item, time.monotonic()))
            self._changed.notify_all()
            return True

    def take(self) -> QueuedFrame | None:
        """Take the oldest item, waiting for it; None when the queue is closed."""
        with self._changed:
            while not self._items or self._is_full:
                if self._is_closed and not self._items:
                    return None
                self._changed.wait()
            item, since_s = self._items.popleft()
            waited_ms = round((time.monotonic() - since_s) * 1e3, 3)
            queued = QueuedFrame(self._next_number, item, self._passed_over, waited_ms)
            self._in_work[queued.number] = queued
            self._next_number += 1
            if isinstance(item, Exposure):
                self._passed_over = 0
                self._count_down()
            self._changed.notify_all()
            return queued

    def finish(self, number: int) -> None:
        """Note that the result of a taken item is written. For the main thread."""
        with self._changed:
            del self._in_work[number]
            self._changed.notify_all()

    @property
    def in_work(self) -> list[QueuedFrame]:
        """What was taken and is not finished, in the order of results."""
        with self._changed:
            return list(self._in_work.values())

    @property
    def is_empty(self) -> bool:
        """Whether nothing is queued."""
        with self._changed:
            return not self._items

    def close(self) -> None:
        """Take nothing more in; workers still take what is queued, and then end."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    @property
    def _is_full(self) -> bool:
        """Whether too many are in work; a closed queue is emptied all the same."""
        if self._max_in_work is None or self._is_closed:
            return False
        return len(self._in_work) >= self._max_in_work

    def _make_room(self) -> None:
        """Remove the exposure that is queued, or wait until it has been taken."""
        while not self._is_closed:
            queued = [e for e in self._items if isinstance(e[0], Exposure)]
            planned = [e for e in queued if e[0].planned is not None]
            if not queued or 0 < len(planned) < MAX_PLANNED:
                return
            if self._is_live and not planned:
                self._items.remove(queued[0])
                self._passed_over += 1
                return
            self._changed.wait()

    def _count_down(self) -> None:
        if self._frames_left is None:
            return
        self._frames_left -= 1
        if self._frames_left <= 0:
            self._is_closed = True
            self._items.clear()
