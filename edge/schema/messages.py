"""Messages between a device and the archive: acknowledgement, state, alarm."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from edge.schema.results import Count, Epoch, Name, Number, Sha256, StrictRecord


class Ack(StrictRecord, frozen=True, kw_only=True):
    """From the archive: rows up to `upto` are stored, `hash` is that of row `upto`.

    `resume` asks the device to send from `upto` + 1 on. `upto` 0 has stored nothing;
    its hash is then 64 zeros.
    """

    v: Literal[1] = 1
    epoch: Epoch
    upto: Count
    hash: Sha256
    resume: bool


class ActiveAlarm(StrictRecord, frozen=True, kw_only=True):
    """An alarm that is not over; `row` tells more, null while it has none yet."""

    severity: Literal["amber", "red"]
    code: str
    text: str
    since: datetime
    row: Number | None = None


class DeviceState(StrictRecord, frozen=True, kw_only=True):
    """Retained: whether a device is there. The last will says `offline`.

    `connection` counts the connections of this device: a late will of an earlier
    connection carries a lower number and is ignored. `oldest` is the first row the
    device still holds: earlier ones were acknowledged and deleted. `is_paused`: it was
    told to stop examining. `alarms` are those that are not over.
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
    """Retained: whether an archive is listening. The last will says `offline`."""

    v: Literal[1] = 1
    state: Literal["online", "offline", "stopped"]
