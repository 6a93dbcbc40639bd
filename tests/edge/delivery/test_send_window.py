"""The window finds out what a way takes, without a word from the broker."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

import pytest

from edge.archive.resume_requests import ResumeRequests
from edge.delivery.send_window import SendWindow
from tests.asking import Clock

TICK_S = 0.005  # the publisher's and the archive's poll


@dataclass
class Sender:
    """A device with a backlog, as the publisher works it off."""

    clock: Clock
    backlog: int
    window: SendWindow
    sent: int = 0
    acknowledged: int = 0
    stalls_s: list[float] = field(default_factory=list)
    progress_s: float = 0.0

    def send(self) -> list[int]:
        if self.window.is_overdue(self.sent, self.acknowledged):
            self.sent = self.acknowledged
        room = min(50, self.window.room(self.sent, self.acknowledged))
        rows = list(range(self.sent + 1, min(self.backlog, self.sent + room) + 1))
        for seq in rows:
            self.window.note_sent(seq)
        self.sent = rows[-1] if rows else self.sent
        return rows

    def receive(self, upto: int, *, resume: bool) -> None:
        self.window.note_acknowledged(upto, self.sent, self.acknowledged)
        if upto > self.acknowledged:
            self.stalls_s.append(self.clock.monotonic() - self.progress_s)
            self.progress_s = self.clock.monotonic()
            self.acknowledged = upto
            self.sent = max(self.sent, upto)
        if resume:
            if self.sent > upto:
                self.window.note_hole()
            self.sent = upto


class Site:
    """Devices, a broker whose queue for the archive is short, and the archive.

    The archive takes `rows_per_s`; a message needs `delay_s` each way. What the queue
    has no place for is dropped, and nobody is told.
    """

    def __init__(
        self,
        devices: int,
        queue: int,
        backlog: int = 1253,
        rows_per_s: float = 2000.0,
        delay_s: float = 0.005,
    ) -> None:
        self.clock = Clock()
        self.queue: deque[tuple[int, int]] = deque()
        self.most, self.dropped, self.delay_s = queue, 0, delay_s
        self.per_tick = rows_per_s * TICK_S
        self.senders = [
            Sender(self.clock, backlog, SendWindow(200, 10.0, self.clock.monotonic))
            for _ in range(devices)
        ]
        for sender in self.senders:
            sender.progress_s = self.clock.monotonic()
        self.stored = [0] * devices
        self.order = random.Random(7)  # noqa: S311 no secret
        self.requests = ResumeRequests(self.clock.monotonic)
        self.rows: deque[tuple[float, int, int]] = deque()
        self.acks: deque[tuple[float, int, int, bool]] = deque()

    def run(self, limit_s: float) -> float:
        """Work the backlogs off; return the seconds that it took."""
        begun_s = self.clock.monotonic()
        while any(s.acknowledged < s.backlog for s in self.senders):
            now_s = self.clock.monotonic()
            assert now_s - begun_s < limit_s, [s.acknowledged for s in self.senders]
            for device in self.order.sample(
                range(len(self.senders)), len(self.senders)
            ):
                rows = self.senders[device].send()
                self.rows.extend((now_s, device, seq) for seq in rows)
            self._pass_on(now_s)
            self._archive(now_s)
            self.clock.move(TICK_S)
        return self.clock.monotonic() - begun_s

    def _pass_on(self, now_s: float) -> None:
        while self.rows and now_s - self.rows[0][0] >= self.delay_s:
            _, device, seq = self.rows.popleft()
            if len(self.queue) < self.most:
                self.queue.append((device, seq))
            else:
                self.dropped += 1
        while self.acks and now_s - self.acks[0][0] >= self.delay_s:
            _, device, upto, resume = self.acks.popleft()
            self.senders[device].receive(upto, resume=resume)

    def _archive(self, now_s: float) -> None:
        ahead: dict[int, bool] = {}
        for _ in range(min(len(self.queue), max(1, int(self.per_tick)))):
            device, seq = self.queue.popleft()
            if seq == self.stored[device] + 1:
                self.stored[device] = seq
            ahead[device] = seq > self.stored[device]
        for device, is_ahead in ahead.items():
            upto = self.stored[device]
            is_asked = is_ahead and self.requests.is_due(device, upto)
            if is_asked or not is_ahead:
                self.acks.append((now_s, device, upto, is_asked))


@pytest.mark.parametrize("queue", [1, 2, 5, 20, 1000])
def test_a_backlog_drains_whatever_the_queue_of_the_broker_takes(queue: int) -> None:
    site = Site(1, queue)

    took_s = site.run(limit_s=60)

    assert 1253 / took_s > 40  # rows per second; a round trip is 25 ms here
    assert max(site.senders[0].stalls_s) < 1.2


@pytest.mark.parametrize("queue", [100, 1000])
def test_fifty_devices_that_recover_together_drain_without_stalls(queue: int) -> None:
    site = Site(50, queue, backlog=300)

    site.run(limit_s=120)

    assert max(max(sender.stalls_s) for sender in site.senders) < 2.0


def test_a_long_way_is_waited_for_and_used() -> None:
    """Round trips of 3 s: at first all is sent twice, then the time is learned."""
    site = Site(1, 1000, backlog=1000, delay_s=1.5)

    took_s = site.run(limit_s=120)

    assert 1000 / took_s > 15
    assert site.senders[0].window.wait_s > 3
