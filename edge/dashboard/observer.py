"""What is known of the devices from MQTT alone; shown by `watch` and the page."""

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
from edge.mqtt import ARCHIVE_STATE, ROOT, Message, split_topic, topic
from edge.rate_limit import RateLimit
from edge.schema.codec import PayloadInvalid, decode
from edge.schema.entries import Alarm, Entry, RunMark, read_row
from edge.schema.messages import Ack, ActiveAlarm, ArchiveState, DeviceState
from edge.schema.results import Differential, Drift, Limits, Name, Result

log = logging.getLogger(__name__)

DeviceMessage = TypeVar("DeviceMessage", bound=Result | Entry | DeviceState | Metrics)

STALE_S = 10.0  # without a result for longer, what is shown is not live
_EXPECTED_AFTER_S = 3.0  # a row of the ledger should have arrived by then
_RATE_WINDOW_S = 10.0
_COUNT_WINDOW_S = 60.0
# Anybody whom the broker lets publish can send nonsense: bounds on what is kept.
_MAX_MISSING = 10_000
_MAX_DEVICES = 1000
_MAX_LABELS, _MAX_LABEL_LENGTH = 64, 64
_MAX_ALARMS = 32
_JPEG_MAGIC = b"\xff\xd8\xff"

SUBSCRIPTIONS = [
    topic("+", name)
    for name in ("result", "state", "ack", "preview", "alarm", "metrics")
]


@dataclass(slots=True)
class DeviceView:
    """What its messages say of one device.

    `stated_epoch` is the ledger that its state names, `epoch` that of its last row.
    `missing` are numbers of rows that arrived neither here nor in the archive. `gaps`
    counts rows that say that frames are missing, `lost` the frames that the camera
    could count among them.
    `examined` is the last frame that was examined, `drift` the drift that it shows.
    `cells` are summed over all frames, so a cell that stays in view is counted in each;
    `differential` counts it once. `start` names the slide of the `run`. `totals` and
    `newest` are counts with the time at which they arrived.
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
    last_result_s: float | None = None
    arrivals_s: deque[float] = field(default_factory=lambda: deque(maxlen=2000))
    missing: set[int] = field(default_factory=set)
    preview: bytes | None = None
    preview_seq: int = 0
    is_paused: bool = False
    alarms: dict[str, ActiveAlarm] = field(default_factory=dict)
    metrics: Metrics | None = None
    newest: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=16))

    def rate_hz(self, now_s: float) -> float:
        """Return results per second over the last ten seconds."""
        recent = sum(1 for at in self.arrivals_s if now_s - at <= _RATE_WINDOW_S)
        return recent / _RATE_WINDOW_S

    def counted_per_min(self, now_s: float) -> float | None:
        """Return cells counted in the last minute, None where nothing is counted."""
        recent = [(at, n) for at, n in self.totals if now_s - at <= _COUNT_WINDOW_S]
        if len(recent) < 2 or now_s <= recent[0][0]:
            return None
        return 60 * (recent[-1][1] - recent[0][1]) / (now_s - recent[0][0])

    def age_s(self, now_s: float) -> float | None:
        """Return the seconds since the last new result; None if there was none."""
        return None if self.last_result_s is None else now_s - self.last_result_s

    def rows_behind(self, now_s: float) -> int:
        """Return how many rows the device wrote some time ago that have not arrived."""
        due = [seq for at, seq in self.newest if now_s - at >= _EXPECTED_AFTER_S]
        return max(0, max(due, default=0) - self.seq)

    def is_stale(self, now_s: float) -> bool:
        """Whether what is shown may no longer be true."""
        age_s = self.age_s(now_s)
        is_live = self.state == "online" and not self.is_paused
        if not is_live or age_s is None or self.rows_behind(now_s) > 0:
            return True
        return age_s > STALE_S + self._until_next_s

    @property
    def _until_next_s(self) -> float:
        """How long after the last result, as planned, the next one is due."""
        point = None if self.last is None else self.last.point
        return 0.0 if point is None else point.next_s or 0.0

    def state_text(self, now_s: float) -> str:
        """Return the state of the device for people; it says why it is not live."""
        if self.state != "online":
            return self.state
        if self.is_paused:
            return "stopped by command"
        if behind := self.rows_behind(now_s):
            return f"{behind:,} rows behind"
        return "no results" if self.is_stale(now_s) else "online"


class Observer:
    """Keeps one view per device. A message that does not decode is ignored."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self.devices: dict[str, DeviceView] = {}
        self.archive_state = "unknown"
        self.trouble, self._is_name_taken = "", False  # of our own connection
        self.ignored = 0
        self._log_limit = RateLimit(20, 0.2, monotonic)

    def handle(self, message: Message) -> None:
        """Update the views by one message of any of our topics."""
        try:
            if message.topic == ARCHIVE_STATE:
                self.archive_state = decode(message.payload, ArchiveState).state
            elif message.topic.startswith(ROOT):
                self._handle_device(message)
        except PayloadInvalid as error:
            self.ignored += 1
            if self._log_limit.try_acquire():
                log.warning("topic=%s ignored: %s", message.topic, error)

    def note_trouble(self, trouble: str, *, is_name_taken: bool) -> None:
        """Note why there is no connection to the broker."""
        self.trouble, self._is_name_taken = trouble, is_name_taken

    def note_connected(self, *, is_steady: bool) -> None:
        """Forget the trouble, that of a shared name only when steadily connected."""
        if is_steady or not self._is_name_taken:
            self.trouble, self._is_name_taken = "", False

    def mark_unreachable(self) -> None:
        """Forget what was live: the connection to the broker broke. Counts stay."""
        self.archive_state = "unknown"
        for view in self.devices.values():
            view.state, view.metrics = "unreachable", None
            view.newest.clear()

    def _handle_device(self, message: Message) -> None:
        device, name = _device_and_name(message)
        match name:
            case "result":
                row = _require_sender(read_row(message.payload), device)
                self._take_row(self._view(device), row)
            case "state":
                state = _require_sender(decode(message.payload, DeviceState), device)
                self._take_state(self._view(device), state)
            case "ack":
                ack = decode(message.payload, Ack)
                view = self._view(device)
                if ack.epoch == (view.stated_epoch or view.epoch):
                    view.acknowledged = ack.upto
                    _forget_archived(view)
            case "preview":
                seq = _preview_row(message)
                view = self._view(device)
                view.preview, view.preview_seq = message.payload, seq
            case "alarm":
                entry = _require_sender(decode(message.payload, Entry), device)
                if not isinstance(entry.entry, Alarm):
                    raise PayloadInvalid("an entry that is not an alarm")
                _update_alarm(self._view(device), entry.entry, entry.seq)
            case "metrics":
                metrics = _require_sender(decode(message.payload, Metrics), device)
                view = self._view(device)
                view.metrics = metrics
                view.newest.append((self._monotonic(), view.metrics.newest))

    def _view(self, device: str) -> DeviceView:
        if device not in self.devices and len(self.devices) >= _MAX_DEVICES:
            raise PayloadInvalid(f"more than {_MAX_DEVICES} devices")
        return self.devices.setdefault(device, DeviceView(device))

    def _take_state(self, view: DeviceView, state: DeviceState) -> None:
        """Take over a device's state, but no late will; a new ledger counts from 0.

        Only a will (`offline`) can be late: the broker sends it when it notices that a
        connection is dead, and the device may be connected again by then. What the
        device sends itself is believed although its count of connections is lower: it
        may have lost the count.
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
        _forget_archived(view)
        view.state, view.connection = state.state, state.connection
        view.is_paused = state.is_paused
        view.alarms = {alarm.code: alarm for alarm in state.alarms[:_MAX_ALARMS]}

    def _take_row(self, view: DeviceView, row: Result | Entry) -> None:
        if row.epoch != view.epoch:
            view.epoch, view.seq, view.missing = row.epoch, row.seq - 1, set()
        is_new = row.seq > view.seq
        if is_new:
            room = _MAX_MISSING - len(view.missing)
            skipped = range(view.seq + 1, row.seq)
            view.missing.update(skipped[max(0, len(skipped) - room) :])
            view.seq = row.seq
            _forget_archived(view)
        elif row.seq in view.missing:
            view.missing.discard(row.seq)
        else:
            return  # a row that was sent again
        view.rows += 1
        if isinstance(row, Result):
            self._take_result(view, row, is_new=is_new)
        elif is_new and isinstance(row.entry, RunMark):
            _switch_run(view, row.entry.run)
            if row.entry.phase in ("start", "resumed"):
                view.start = row.entry

    def _take_result(self, view: DeviceView, result: Result, *, is_new: bool) -> None:
        for label, count in result.counts.items():
            is_known = label in view.cells
            if is_known or (
                len(view.cells) < _MAX_LABELS and len(label) <= _MAX_LABEL_LENGTH
            ):
                view.cells[label] += count
        if result.status == "gap":
            view.gaps += 1
            view.lost += result.frame.missed or 0
        if not is_new:
            return
        view.last, view.status, view.reason = result, result.status, result.reason
        if result.status != "gap":  # in a gap nothing was examined
            view.last_result_s = self._monotonic()
            view.arrivals_s.append(view.last_result_s)
            view.drift = result.drift or view.drift
            view.examined = result
            _switch_run(view, result.run)
        if result.differential is not None:
            view.differential = result.differential
            view.totals.append((self._monotonic(), result.differential.total))


def _forget_archived(view: DeviceView) -> None:
    """Miss no longer what the archive has: it is not sent again."""
    if view.missing and view.epoch == (view.stated_epoch or view.epoch):
        view.missing = {seq for seq in view.missing if seq > view.acknowledged}


def _switch_run(view: DeviceView, run: str | None) -> None:
    """Forget the counts of the run before, if this is another run."""
    if run != view.run:
        view.run, view.start, view.differential = run, None, None
        view.totals.clear()


def _device_and_name(message: Message) -> tuple[str, str]:
    """Split the topic; refuse an impossible device, and what should not be retained."""
    device, name = split_topic(message.topic)
    try:
        msgspec.convert(device, Name)
    except msgspec.ValidationError as error:
        raise PayloadInvalid(f"not the name of a device: {error}") from error
    if message.is_retained and name != "state":
        raise PayloadInvalid("retained: it may have been sent at any time")
    return device, name


def _update_alarm(view: DeviceView, alarm: Alarm, row: int) -> None:
    """Add an alarm that begins, remove one that is over."""
    if alarm.until is not None:
        view.alarms.pop(alarm.code, None)
    elif alarm.code in view.alarms or len(view.alarms) < _MAX_ALARMS:
        view.alarms[alarm.code] = ActiveAlarm(
            severity=alarm.severity,
            code=alarm.code,
            text=alarm.text,
            since=alarm.since,
            row=row,
        )


def _require_sender(content: DeviceMessage, device: str) -> DeviceMessage:
    """Refuse what one device sends on the topics of another."""
    if content.device != device:
        raise PayloadInvalid(f"it is of {content.device!r}")
    return content


def _preview_row(message: Message) -> int:
    """Return the row that a preview shows, as its property `seq` says."""
    if not message.payload.startswith(_JPEG_MAGIC) or (
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


def slide_text(view: DeviceView) -> str:
    """Return the slide that a device counts on, and its operator."""
    start = view.start
    if start is None or start.slide is None:
        return f"run {view.run}"
    return f"slide {start.slide}" + (f" by {start.operator}" if start.operator else "")


def gaps_text(view: DeviceView) -> str:
    """Return how often frames were missing, and how many."""
    if not view.gaps:
        return "none"
    return f"{view.gaps:,}, {view.lost:,} frames"


def drift_text(view: DeviceView, now_s: float) -> str:
    """Return how far the microscope is from its calibration."""
    drift = view.drift
    if drift is None:
        return "unknown"
    text = drift.status if drift.of is None else f"{drift.status}: {drift.of}"
    off = None if drift.of is None else _worst_figure(drift)
    text += "" if off is None else f" {off}"
    return f"was {text}" if view.is_stale(now_s) else text


def _worst_figure(drift: Drift) -> str | None:
    """Return the figure that differs most from the calibration."""
    if drift.of == "focus":
        sharp = drift.sharpness
        return None if sharp is None else f"{100 * sharp:.0f} % as sharp"
    colour: float | None = getattr(drift, str(drift.of))
    return None if colour is None else f"ΔE {colour:.1f}"


def limits_text(limits: Limits) -> str:
    """Return limits in percent."""
    return f"{100 * limits.low:.1f} to {100 * limits.high:.1f} %"
