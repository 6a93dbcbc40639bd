"""The settings files, one class each."""

from __future__ import annotations

from pathlib import Path

from edge.schema.results import Name
from edge.settings.delivery import BrokerSettings, CommandSettings, PublishSettings
from edge.settings.models import LocationSettings, ModelSettings, SequenceSettings
from edge.settings.run import (
    AlarmSettings,
    DifferentialSettings,
    LedgerSettings,
    RecordingSettings,
    RunSettings,
)
from edge.settings.sources import SourceSettings
from edge.settings.timelapse import (
    EventSettings,
    PauseSettings,
    ScheduleSettings,
    TrackingSettings,
)
from edge.settings.values import (
    StrictSettings,
)


class DeviceFile(StrictSettings, frozen=True, kw_only=True):
    """The settings file of a device, for `run` and `publish`."""

    device: Name
    source: SourceSettings
    profile: Path | None = None
    model: ModelSettings = ModelSettings()
    location: LocationSettings = LocationSettings()
    tracking: TrackingSettings | None = None
    sequence: SequenceSettings | None = None
    schedule: ScheduleSettings | None = None
    pauses: PauseSettings = PauseSettings()
    events: EventSettings = EventSettings()
    ledger: LedgerSettings
    run: RunSettings = RunSettings()
    differential: DifferentialSettings = DifferentialSettings()
    recording: RecordingSettings | None = None
    commands: CommandSettings = CommandSettings()
    alarms: AlarmSettings = AlarmSettings()
    broker: BrokerSettings = BrokerSettings()
    publish: PublishSettings = PublishSettings()

    def __post_init__(self) -> None:
        if self.sequence is not None and self.tracking is None:
            raise ValueError(
                "sequence needs tracking: add [tracking], so that cells are followed"
            )


class ReplaySettings(StrictSettings, frozen=True, kw_only=True):
    """The settings that results depend on; a copy lies in each recording."""

    profile: Path | None = None
    model: ModelSettings = ModelSettings()
    location: LocationSettings = LocationSettings()
    tracking: TrackingSettings | None = None
    sequence: SequenceSettings | None = None
    pauses: PauseSettings = PauseSettings()
    events: EventSettings = EventSettings()
    run: RunSettings = RunSettings()
    differential: DifferentialSettings = DifferentialSettings()

    @classmethod
    def of(cls, device: DeviceFile) -> ReplaySettings:
        """Return the settings that a device's results depend on."""
        return cls(**{name: getattr(device, name) for name in cls.__struct_fields__})


class ArchiveSettings(StrictSettings, frozen=True):
    """`file`: the archive's database; `client_id`: its name at the broker."""

    file: Path
    client_id: str = "archive"


class ArchiveFile(StrictSettings, frozen=True, kw_only=True):
    """The settings file of the lab server, for `archive`."""

    archive: ArchiveSettings
    broker: BrokerSettings = BrokerSettings()
