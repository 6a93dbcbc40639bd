"""How many rows may be under way, and when to send again what was not acknowledged.

A broker drops messages for an archive whose queue is full, and tells nobody. How long
that queue is, and how many devices share it, is unknown here. So the publisher finds
out what the way takes as TCP does (RFC 5681): it begins with few rows, sends more while
all arrive, and half as many when some are lost. Where the queue is long and the archive
slow, rows would wait for seconds before one is lost, and as long for the news of it. So
it also sends fewer when they wait longer than they must (as in LEDBAT, RFC 6817).

How long to wait is measured too (RFC 6298): a row that is lost at the end of a burst is
followed by nothing that could show the archive the hole, so only time tells.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_FIRST_ROWS = 4.0  # under way at first, also of fifty devices at once
_MOST_DOUBLINGS = 2  # of the time to wait
_FIRST_WAIT_S = 0.5  # before any round trip was measured
_LEAST_WAIT_S = 0.2
_MOST_QUEUED_S = 0.3  # how much longer than the shortest a round trip may be
_FULL_GROWTH_S = 10.0  # as many rows as were under way at a loss are added in this time


class SendWindow:
    """The rows that may be under way, and the time to wait for them. For one thread.

    `sent` and `acknowledged` are numbers of rows, as the publisher knows them.
    """

    def __init__(
        self,
        most_rows: int,
        most_wait_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most_rows, self._most_wait_s = float(most_rows), most_wait_s
        self._monotonic = monotonic
        self._rows = min(_FIRST_ROWS, self._most_rows)
        self._doubles_until = self._most_rows  # the "slow start threshold" of TCP
        self._growth_per_s = 1.0
        self._grown_s = self._progress_s = monotonic()
        self._round_trip_s: float | None = None
        self._deviation_s, self._queued_s = 0.0, 0.0
        self._shortest_s = float("inf")  # round trip
        # Rows and slow start threshold before the first time-out in a row.
        self._before_timeouts = self._rows, self._doubles_until
        self._timeouts = 0  # in a row
        self._highest = 0  # the last row that was ever sent
        self._timed: tuple[int, float] | None = None  # a row, and when it was sent
        self._is_resent = False  # since `_timed` was sent
        self._has_answer = False  # on this connection
        self._is_disputed = False  # the archive acknowledges rows that are not ours

    def restart(self, acknowledged: int) -> None:
        """Begin a connection: what was under way is lost, what was learned stays."""
        self._progress_s = self._monotonic()
        self._rows = min(self._rows, _FIRST_ROWS)
        self._timeouts, self._timed, self._has_answer = 0, None, False
        self._highest = acknowledged

    def room(self, sent: int, acknowledged: int) -> int:
        """Return how many rows may be sent now."""
        return max(0, int(self._rows) - max(0, sent - acknowledged))

    @property
    def wait_s(self) -> float:
        """How long to wait for an acknowledgement; twice as long after each time-out.

        RFC 6298: the mean round trip and four times its mean deviation. A single row is
        under way after a time-out. To send it again costs little, so a device among
        many does not wait for long.
        """
        if self._is_disputed:
            return self._most_wait_s
        wait_s = _FIRST_WAIT_S
        if self._round_trip_s is not None:
            wait_s = max(_LEAST_WAIT_S, self._round_trip_s + 4 * self._deviation_s)
            wait_s *= 2.0 ** min(self._timeouts, _MOST_DOUBLINGS)
        return min(self._most_wait_s, wait_s)

    def note_sent(self, seq: int) -> None:
        """Row `seq` is on its way, for the first time or again."""
        if self._timed is None and seq > self._highest:
            self._timed, self._is_resent = (seq, self._monotonic()), False
        self._highest = max(self._highest, seq)

    def note_acknowledged(self, upto: int, sent: int, acknowledged: int) -> None:
        """Row `upto` is acknowledged; before, it was row `acknowledged`."""
        now_s, rows = self._monotonic(), upto - acknowledged
        if rows <= 0:
            return
        self._measure(upto, sent, now_s)
        # A window that is not used proves nothing about what the way takes.
        is_used = 2 * (sent - acknowledged) >= self._rows
        if is_used and self._queued_s <= _MOST_QUEUED_S:
            self._grow(rows, now_s)
        self._progress_s, self._has_answer = now_s, True
        self._is_disputed = False

    def note_hole(self) -> None:
        """Send fewer: the archive misses a row of those under way."""
        # The first request on a connection is only how the archive begins.
        if self._has_answer:
            self._shrink(to=self._rows / 2)
        self._timed, self._progress_s = None, self._monotonic()

    def note_dispute(self) -> None:
        """Send all once, and seldom again: the archive holds other rows than ours.

        It keeps ours aside for a person, so it must get them; none is acknowledged.
        """
        self._is_disputed = True
        self._rows = self._most_rows

    def is_overdue(self, sent: int, acknowledged: int) -> bool:
        """Whether to send again from the row after `acknowledged`; asked often.

        If so, the window shrinks to one row: there may be no way at all now.
        """
        now_s = self._monotonic()
        if sent <= acknowledged:  # nothing is under way, so nothing can be late
            self._progress_s = now_s
        if now_s - self._progress_s <= self.wait_s:
            return False
        if not self._timeouts:
            self._before_timeouts = self._rows, self._doubles_until
        self._shrink(to=1.0)
        self._timeouts += 1
        self._progress_s, self._is_resent = now_s, True
        return True

    def _measure(self, upto: int, sent: int, now_s: float) -> None:
        """Take over the round trip of the row that is timed, if it is sure.

        After a row was sent again, its acknowledgement may be for either copy (Karn's
        algorithm). Only where it covers rows that were not sent again, it is for the
        first one: nothing was lost, and we did not wait long enough.
        """
        if self._timed is None or upto < self._timed[0]:
            return
        sample_s = now_s - self._timed[1]
        is_sure = not self._is_resent or upto > sent
        self._timed = None
        if not is_sure:
            self._timeouts //= 2
            return
        if self._is_resent:
            self._rows, self._doubles_until = self._before_timeouts
        self._timeouts = 0
        self._shortest_s = min(self._shortest_s, sample_s)
        self._queued_s = sample_s - self._shortest_s
        if self._queued_s > _MOST_QUEUED_S:
            self._rows = max(
                1.0, self._rows * max(0.5, _MOST_QUEUED_S / self._queued_s)
            )
            self._doubles_until = min(self._doubles_until, self._rows)
        if self._round_trip_s is None:
            self._round_trip_s, self._deviation_s = sample_s, sample_s / 2
            return
        off_s = abs(sample_s - self._round_trip_s)
        self._deviation_s += (off_s - self._deviation_s) / 4
        self._round_trip_s += (sample_s - self._round_trip_s) / 8

    def _grow(self, rows: int, now_s: float) -> None:
        """Add a row for each that arrived; after a loss, slowly from half of it on."""
        if self._rows < self._doubles_until:
            grown = self._rows + rows
        else:
            # By time and not by round trip: through a short queue a round trip takes
            # milliseconds, and the loss that ends the growth costs 0.2 s.
            since_s = min(max(1.0, self._round_trip_s or 0.0), now_s - self._grown_s)
            grown = self._rows + min(float(rows), since_s * self._growth_per_s)
        self._rows, self._grown_s = min(grown, self._most_rows), now_s

    def _shrink(self, to: float) -> None:
        self._growth_per_s = max(1.0, self._rows / _FULL_GROWTH_S)
        self._doubles_until = max(1.0, self._rows / 2)
        self._rows, self._grown_s = max(1.0, to), self._monotonic()
