"""What can be known of the devices from MQTT alone; shown by `watch` and the page."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from edge.codec import PayloadInvalid, decode
from edge.mqtt import ARCHIVE_STATE, ROOT, Message, device_of, topic
from edge.results import (
    Ack,
    ArchiveState,
    DeviceState,
    Differential,
    Limits,
    Result,
    RunMark,
)

log = logging.getLogger(__name__)

Said = TypeVar("Said", Result, DeviceState)

STALE_S = 10.0  # without a result for so long, what is shown is not live
_RATE_OVER_S = 10.0
_COUNTED_OVER_S = 60.0
_MOST_MISSING = 10_000

SUBSCRIPTIONS = [topic("+", name) for name in ("result", "state", "ack", "preview")]


@dataclass(slots=True)
class DeviceView:
    """One device as seen from outside.

    `missing` are rows that have not come yet. `cells` are summed over all frames, so
    one that stays in view is among them again and again; `differential` has each once.
    `start` says what slide the `run` is of.
    """

    device: str
    state: str = "unknown"
    connection: int = -1
    epoch: str = ""
    stated_epoch: str = ""
    seq: int = 0
    acknowledged: int = 0
    rows: int = 0
    status: str = ""
    reason: str | None = None
    cells: Counter[str] = field(default_factory=Counter)
    run: str | None = None
    start: RunMark | None = None
    differential: Differential | None = None
    totals: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=2000))
    last: Result | None = None
    heard_s: float | None = None
    arrivals_s: deque[float] = field(default_factory=lambda: deque(maxlen=2000))
    missing: set[int] = field(default_factory=set)
    preview: bytes | None = None
    preview_seq: int = 0

    def rate_hz(self, now_s: float) -> float:
        """Results per second over the last ten seconds."""
        recent = sum(1 for at in self.arrivals_s if now_s - at <= _RATE_OVER_S)
        return recent / _RATE_OVER_S

    def counted_per_min(self, now_s: float) -> float | None:
        """Cells counted per minute over the last one; None where nothing is counted."""
        recent = [(at, n) for at, n in self.totals if now_s - at <= _COUNTED_OVER_S]
        if len(recent) < 2 or now_s <= recent[0][0]:
            return None
        return 60 * (recent[-1][1] - recent[0][1]) / (now_s - recent[0][0])

    def age_s(self, now_s: float) -> float | None:
        """Seconds since the last new result came; None if none has."""
        return None if self.heard_s is None else now_s - self.heard_s

    def is_stale(self, now_s: float) -> bool:
        """Whether what is shown may no longer be true."""
        age_s = self.age_s(now_s)
        return self.state != "online" or age_s is None or age_s > STALE_S


class Observer:
    """Keeps one view per device. Believes nothing that does not decode."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self.devices: dict[str, DeviceView] = {}
        self.archive_state = "unknown"
        self.ignored = 0

    def take(self, message: Message) -> None:
        """Take in one message of any of our topics."""
        try:
            if message.topic == ARCHIVE_STATE:
                self.archive_state = decode(message.payload, ArchiveState).state
            elif message.topic.startswith(ROOT):
                self._take_device(message)
        except PayloadInvalid as error:
            self.ignored += 1
            log.warning("topic=%s ignored: %s", message.topic, error)

    def _take_device(self, message: Message) -> None:
        device, name = device_of(message.topic)
        match name:
            case "result":
                result = _own(decode(message.payload, Result), device)
                self._take_result(self._view(device), result)
            case "state":
                state = _own(decode(message.payload, DeviceState), device)
                self._take_state(self._view(device), state)
            case "ack":
                ack = decode(message.payload, Ack)
                view = self._view(device)
                if ack.epoch == (view.stated_epoch or view.epoch):
                    view.acknowledged = ack.upto
            case "preview":
                seq = _row_of(message)
                view = self._view(device)
                view.preview, view.preview_seq = message.payload, seq

    def _view(self, device: str) -> DeviceView:
        return self.devices.setdefault(device, DeviceView(device))

    def _take_state(self, view: DeviceView, state: DeviceState) -> None:
        """Believe the newest connection; a new ledger starts counting again."""
        if state.epoch == view.stated_epoch:
            if state.connection < view.connection:
                return  # the late will of an earlier connection
            view.acknowledged = max(view.acknowledged, state.acknowledged)
        else:
            if view.stated_epoch and state.state != "online":
                return  # the late will of an earlier ledger
            view.stated_epoch, view.acknowledged = state.epoch, state.acknowledged
        view.state, view.connection = state.state, state.connection

    def _take_result(self, view: DeviceView, result: Result) -> None:
        if result.epoch != view.epoch:
            view.epoch, view.seq, view.missing = result.epoch, result.seq - 1, set()
        if result.seq <= view.seq:
            if result.seq not in view.missing:
                return  # sent again
            view.missing.discard(result.seq)
        else:
            skipped = range(view.seq + 1, result.seq)
            view.missing.update(skipped[-_MOST_MISSING:])
            view.seq, view.heard_s = result.seq, self._monotonic()
            view.arrivals_s.append(view.heard_s)
            self._take_newest(view, result, view.heard_s)
        view.rows += 1
        view.cells.update(result.counts)

    def _take_newest(self, view: DeviceView, result: Result, now_s: float) -> None:
        """Show the newest row; what is said of a run is not said of a frame."""
        if result.run != view.run:
            view.run, view.start, view.differential = result.run, None, None
            view.totals.clear()
        mark = result.mark
        if mark is not None:
            if mark.kind == "start":
                view.start = mark
            return
        view.last, view.status, view.reason = result, result.status, result.reason
        if result.differential is not None:
            view.differential = result.differential
            view.totals.append((now_s, result.differential.total))


def _own(said: Said, device: str) -> Said:
    """Refuse what one device says on the topics of another."""
    if said.device != device:
        raise PayloadInvalid(f"it is of {said.device!r}")
    return said


def _row_of(message: Message) -> int:
    """Return the row that a preview shows, as its property `seq` says."""
    text = dict(message.properties).get("seq", "")
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise PayloadInvalid(
            f"a preview's property seq is {text!r}, expected a row's number"
        )
    return int(text)


def slide_of(view: DeviceView) -> str:
    """Name the slide that a device counts on, and who is at it."""
    start = view.start
    if start is None or start.slide is None:
        return f"run {view.run}"
    return f"slide {start.slide}" + (f" by {start.operator}" if start.operator else "")


def span(limits: Limits) -> str:
    """Write limits in percent."""
    return f"{100 * limits.low:.1f} to {100 * limits.high:.1f} %"
