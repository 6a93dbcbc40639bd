"""Messages between a device and the archive: acknowledgement, state, active alarm."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from edge.schema.results import Count, Epoch, Name, Number, Sha256, StrictRecord


class Ack(StrictRecord, frozen=True, kw_only=True):
    """From the archive: rows up to `upto` are stored, `hash` is that of row `upto`.

    `resume` asks the device to send from row `upto` + 1 on. If nothing is stored,
    `upto` is 0 and `hash` is 64 zeros.
    """

    v: Literal[1] = 1
    epoch: Epoch
    upto: Count
    hash: Sha256
    resume: bool


class ActiveAlarm(StrictRecord, frozen=True, kw_only=True):
    """An alarm that is not over. `row` is the row about it, null if there is none."""

    severity: Literal["amber", "red"]
    code: str
    text: str
    since: datetime
    row: Number | None = None


class DeviceState(StrictRecord, frozen=True, kw_only=True):
    """Retained: whether a device is connected. The last will says `offline`.

    `connection` counts the connections of this device. The will of an earlier
    connection has a lower number; if it comes late, it must be ignored. `oldest` is the
    first row that the device still holds: earlier ones were acknowledged and deleted.
    `is_paused`: a command stopped or paused examination. `alarms` are those that are
    not over.
    """

    v: Literal[1] = 1
    state: Literal["online", "offline", "stopped"]
    device: Name
    epoch: Epoch
    connection: Count
    oldest: Number
    seq: Count
    acknowledged: Count
    software: str
    is_paused: bool = False
    alarms: tuple[ActiveAlarm, ...] = ()


class ArchiveState(StrictRecord, frozen=True, kw_only=True):
    """Retained: whether an archive is connected. The last will says `offline`."""

    v: Literal[1] = 1
    state: Literal["online", "offline", "stopped"]
