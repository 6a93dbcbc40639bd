"""What can be known of the devices from MQTT alone; shown by `watch` and the page."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from edge.ledger.preview_file import MAX_PREVIEW_BYTES
from edge.monitoring.metrics import Metrics
from edge.mqtt import ARCHIVE_STATE, ROOT, Message, device_of, topic
from edge.rate_limit import RateLimit
from edge.schema.codec import PayloadInvalid, decode
from edge.schema.entries import Alarm, Entry, RunMark, read_row
from edge.schema.messages import Ack, ActiveAlarm, ArchiveState, DeviceState
from edge.schema.results import Differential, Drift, Limits, Name, Result

log = logging.getLogger(__name__)

Said = TypeVar("Said", bound=Result | Entry | DeviceState | Metrics)

STALE_S = 10.0  # without a result for so long, what is shown is not live
_BEHIND_S = 3.0  # rows that were there so long ago should have come
_RATE_OVER_S = 10.0
_COUNTED_OVER_S = 60.0
# Whatever arrives, what is kept stays small.
_MOST_MISSING = 10_000
_MOST_DEVICES = 1000
_MOST_LABELS, _LONGEST_LABEL = 64, 64
_MOST_ALARMS = 32
_JPEG = b"\xff\xd8\xff"

SUBSCRIPTIONS = [
    topic("+", name)
    for name in ("result", "state", "ack", "preview", "alarm", "metrics")
]


@dataclass(slots=True)
class DeviceView:
    """One device as seen from outside.

    `missing` are rows that have not come yet; `gaps` rows that say that frames never
    came, `lost` so many of those as the camera could count. `drift` is that of the last
    frame that was examined, which `examined` is. `cells` are summed over all frames, so
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
    gaps: int = 0
    lost: int = 0
    drift: Drift | None = None
    cells: Counter[str] = field(default_factory=Counter)
    run: str | None = None
    start: RunMark | None = None
    differential: Differential | None = None
    totals: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=2000))
    last: Result | None = None
    examined: Result | None = None
    heard_s: float | None = None
    arrivals_s: deque[float] = field(default_factory=lambda: deque(maxlen=2000))
    missing: set[int] = field(default_factory=set)
    preview: bytes | None = None
    preview_seq: int = 0
    is_paused: bool = False
    alarms: dict[str, ActiveAlarm] = field(default_factory=dict)
    metrics: Metrics | None = None
    newest: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=16))

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

    def behind(self, now_s: float) -> int:
        """How many rows the device has had for a while that have not come here."""
        due = [seq for at, seq in self.newest if now_s - at >= _BEHIND_S]
        return max(0, max(due, default=0) - self.seq)

    def is_stale(self, now_s: float) -> bool:
        """Whether what is shown may no longer be true."""
        age_s = self.age_s(now_s)
        is_live = self.state == "online" and not self.is_paused
        if not is_live or age_s is None or self.behind(now_s) > 0:
            return True
        return age_s > STALE_S + self._until_next_s

    @property
    def _until_next_s(self) -> float:
        """How long after the last result, as planned, the next one is due."""
        point = None if self.last is None else self.last.point
        return 0.0 if point is None else point.next_s or 0.0

    def condition(self, now_s: float) -> str:
        """Say in a few words how things are, and why they are not live."""
        if self.state != "online":
            return self.state
        if self.is_paused:
            return "stopped by command"
        if behind := self.behind(now_s):
            return f"{behind:,} rows behind"
        return "no results" if self.is_stale(now_s) else "online"


class Observer:
    """Keeps one view per device. Believes nothing that does not decode."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self.devices: dict[str, DeviceView] = {}
        self.archive_state = "unknown"
        self.ignored = 0
        self._complaints = RateLimit(20, 0.2, monotonic)

    def take(self, message: Message) -> None:
        """Take in one message of any of our topics."""
        try:
            if message.topic == ARCHIVE_STATE:
                self.archive_state = decode(message.payload, ArchiveState).state
            elif message.topic.startswith(ROOT):
                self._take_device(message)
        except PayloadInvalid as error:
            self.ignored += 1
            if self._complaints.spend():
                log.warning("topic=%s ignored: %s", message.topic, error)

    def lose_link(self) -> None:
        """Forget what was live: nobody tells us any more. Counts stay."""
        self.archive_state = "unknown"
        for view in self.devices.values():
            view.state, view.metrics = "unreachable", None
            view.newest.clear()

    def _take_device(self, message: Message) -> None:
        device, name = _named(message)
        match name:
            case "result":
                row = _own(read_row(message.payload), device)
                self._take_row(self._view(device), row)
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
            case "alarm":
                entry = _own(decode(message.payload, Entry), device)
                if not isinstance(entry.entry, Alarm):
                    raise PayloadInvalid("no alarm")
                _take_alarm(self._view(device), entry.entry, entry.seq)
            case "metrics":
                metrics = _own(decode(message.payload, Metrics), device)
                view = self._view(device)
                view.metrics = metrics
                view.newest.append((self._monotonic(), view.metrics.newest))

    def _view(self, device: str) -> DeviceView:
        if device not in self.devices and len(self.devices) >= _MOST_DEVICES:
            raise PayloadInvalid(f"more than {_MOST_DEVICES} devices")
        return self.devices.setdefault(device, DeviceView(device))

    def _take_state(self, view: DeviceView, state: DeviceState) -> None:
        """Believe all but late wills; a new ledger starts counting again.

        A device whose count of connections was lost counts from a lower one: what it
        says itself is never late.
        """
        if state.epoch == view.stated_epoch:
            if state.state == "offline" and state.connection < view.connection:
                return  # the late will of an earlier connection
            view.acknowledged = max(view.acknowledged, state.acknowledged)
        else:
            if view.stated_epoch and state.state != "online":
                return  # the late will of an earlier ledger
            view.stated_epoch, view.acknowledged = state.epoch, state.acknowledged
            view.newest.clear()
        view.state, view.connection = state.state, state.connection
        view.is_paused = state.is_paused
        view.alarms = {alarm.code: alarm for alarm in state.alarms[:_MOST_ALARMS]}

    def _take_row(self, view: DeviceView, row: Result | Entry) -> None:
        if row.epoch != view.epoch:
            view.epoch, view.seq, view.missing = row.epoch, row.seq - 1, set()
        is_new = row.seq > view.seq
        if is_new:
            room = _MOST_MISSING - len(view.missing)
            skipped = range(view.seq + 1, row.seq)
            view.missing.update(skipped[max(0, len(skipped) - room) :])
            view.seq = row.seq
        elif row.seq in view.missing:
            view.missing.discard(row.seq)
        else:
            return  # sent again
        view.rows += 1
        if isinstance(row, Result):
            self._take_result(view, row, is_new=is_new)
        elif is_new and isinstance(row.entry, RunMark):
            _follow_run(view, row.entry.run)
            if row.entry.phase in ("start", "resumed"):
                view.start = row.entry

    def _take_result(self, view: DeviceView, result: Result, *, is_new: bool) -> None:
        for label, count in result.counts.items():
            is_known = label in view.cells
            if is_known or (
                len(view.cells) < _MOST_LABELS and len(label) <= _LONGEST_LABEL
            ):
                view.cells[label] += count
        if result.status == "gap":
            view.gaps += 1
            view.lost += result.frame.missed or 0
        if not is_new:
            return
        view.last, view.status, view.reason = result, result.status, result.reason
        if result.status != "gap":  # nobody has looked at anything
            view.heard_s = self._monotonic()
            view.arrivals_s.append(view.heard_s)
            view.drift = result.drift or view.drift
            view.examined = result
            _follow_run(view, result.run)
        if result.differential is not None:
            view.differential = result.differential
            view.totals.append((self._monotonic(), result.differential.total))


def _follow_run(view: DeviceView, run: str | None) -> None:
    """Show nothing of the slide before."""
    if run != view.run:
        view.run, view.start, view.differential = run, None, None
        view.totals.clear()


def _named(message: Message) -> tuple[str, str]:
    """Device and name in a topic; refuse what cannot be, and what was kept too long."""
    device, name = device_of(message.topic)
    try:
        msgspec.convert(device, Name)
    except msgspec.ValidationError as error:
        raise PayloadInvalid(f"no device has this name: {error}") from error
    if message.is_retained and name != "state":
        raise PayloadInvalid("retained: it may be of any time")
    return device, name


def _take_alarm(view: DeviceView, alarm: Alarm, row: int) -> None:
    """Show an alarm that begins, and no longer one that is over."""
    if alarm.until is not None:
        view.alarms.pop(alarm.code, None)
    elif alarm.code in view.alarms or len(view.alarms) < _MOST_ALARMS:
        view.alarms[alarm.code] = ActiveAlarm(
            severity=alarm.severity,
            code=alarm.code,
            text=alarm.text,
            since=alarm.since,
            row=row,
        )


def _own(text: Said, device: str) -> Said:
    """Refuse what one device says on the topics of another."""
    if text.device != device:
        raise PayloadInvalid(f"it is of {text.device!r}")
    return text


def _row_of(message: Message) -> int:
    """Return the row that a preview shows, as its property `seq` says."""
    if not message.payload.startswith(_JPEG) or (
        len(message.payload) > MAX_PREVIEW_BYTES
    ):
        raise PayloadInvalid(
            f"a preview is a JPEG of at most {MAX_PREVIEW_BYTES} bytes"
        )
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


def gaps_of(view: DeviceView) -> str:
    """Write how often frames never came, and how many."""
    if not view.gaps:
        return "none"
    return f"{view.gaps:,}, {view.lost:,} frames"


def drift_of(view: DeviceView, now_s: float) -> str:
    """Write how far the microscope is from its calibration, and what to do."""
    drift = view.drift
    if drift is None:
        return "unknown"
    text = drift.status if drift.of is None else f"{drift.status}: {drift.of}"
    off = None if drift.of is None else _off(drift)
    text += "" if off is None else f" {off}"
    return f"was {text}" if view.is_stale(now_s) else text


def _off(drift: Drift) -> str | None:
    """Write the figure that is worst."""
    if drift.of == "focus":
        sharp = drift.sharpness
        return None if sharp is None else f"{100 * sharp:.0f} % as sharp"
    colour: float | None = getattr(drift, str(drift.of))
    return None if colour is None else f"ΔE {colour:.1f}"


def span(limits: Limits) -> str:
    """Write limits in percent."""
    return f"{100 * limits.low:.1f} to {100 * limits.high:.1f} %"
