"""What is examined: the settings of a device, as far as they can be read."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edge.errors import ConfigurationInvalid
from edge.schema.codec import read_good_parts, read_toml
from edge.settings.delivery import BrokerSettings
from edge.settings.files import DeviceFile
from edge.settings.models import LocationSettings, ModelSettings, SequenceSettings
from edge.settings.run import AlarmSettings, LedgerSettings, RunSettings
from edge.settings.sources import SourceSettings

USUAL = Path("/etc/hemascope/device.toml")  # where the units look
T = TypeVar("T")


class SettingMissing(Exception):
    """A check needs a setting that nobody could read; the finding says so."""


@dataclass(frozen=True)
class ExaminedDevice:
    """A settings file: `config`, None where there is none.

    `refused` says why it is not valid, None where it is. Its good parts are there even
    so, so that one wrong line does not hide what else is wrong.
    """

    config: Path | None
    refused: str | None = None
    parts: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def device(self) -> str:
        """Name of the device."""
        return str(self._part("device"))

    @cached_property
    def source(self) -> SourceSettings:
        """Where frames come from."""
        found: SourceSettings = self._part("source")
        return found

    @cached_property
    def ledger(self) -> LedgerSettings:
        """Where results are kept."""
        found: LedgerSettings = self._part("ledger")
        return found

    @cached_property
    def profile(self) -> Path | None:
        """The calibration's folder."""
        return self._or("profile", None)

    @cached_property
    def model(self) -> ModelSettings:
        """The classifier and its engine."""
        return self._or("model", ModelSettings())

    @cached_property
    def location(self) -> LocationSettings:
        """How cells are located."""
        return self._or("location", LocationSettings())

    @cached_property
    def sequence(self) -> SequenceSettings | None:
        """The recurrent model."""
        return self._or("sequence", None)

    @cached_property
    def run(self) -> RunSettings:
        """Of the run process."""
        return self._or("run", RunSettings())

    @cached_property
    def alarms(self) -> AlarmSettings:
        """Limits of disk and temperature."""
        return self._or("alarms", AlarmSettings())

    @cached_property
    def broker(self) -> BrokerSettings:
        """Where results are published; needs a settings file."""
        if self.config is None:
            raise SettingMissing("broker")
        return self._or("broker", BrokerSettings())

    def _part(self, name: str) -> Any:
        if name not in self.parts:
            raise SettingMissing(name)
        return self.parts[name]

    def _or(self, name: str, default: T) -> T:
        """Return a part that may be left out; but not one that is wrong."""
        if name in self.parts:
            found: T = self.parts[name]
            return found
        if self.refused is not None:
            raise SettingMissing(name)
        return default


def nearest(folder: Path) -> Path:
    """Return `folder`, or the part of its path that is there and may be seen."""
    while not os.access(folder, os.F_OK) and folder != folder.parent:
        folder = folder.parent
    return folder


def read_subject(config: Path | None) -> ExaminedDevice:
    """Read a settings file as far as it can be read; never raises.

    Without one, the file that the units use is taken, if there is one.
    """
    if config is None and USUAL.exists():
        config = USUAL
    if config is None:
        return ExaminedDevice(None)
    try:
        good = read_toml(config, DeviceFile)
    except ConfigurationInvalid as error:
        return ExaminedDevice(config, str(error), read_good_parts(config, DeviceFile))
    return ExaminedDevice(config, None, msgspec.structs.asdict(good))
