"""The device that is examined: its settings, as far as they can be read."""

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

DEFAULT_CONFIG = Path("/etc/hemascope/device.toml")  # the file of the systemd units
T = TypeVar("T")


class SettingMissing(Exception):
    """A check needs a setting that could not be read; the finding says so."""


@dataclass(frozen=True)
class ExaminedDevice:
    """A device as its settings file describes it.

    `config` is the file, None without one. `config_error` says why it is not valid,
    None if it is. `parts` are the settings that could be read: one wrong line does not
    hide what else is wrong.
    """

    config: Path | None
    config_error: str | None = None
    parts: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def name(self) -> str:
        """The device's name."""
        return str(self._required("device"))

    @cached_property
    def source(self) -> SourceSettings:
        """Where frames come from."""
        source: SourceSettings = self._required("source")
        return source

    @cached_property
    def ledger(self) -> LedgerSettings:
        """Where results are stored."""
        ledger: LedgerSettings = self._required("ledger")
        return ledger

    @cached_property
    def profile(self) -> Path | None:
        """The calibration's folder."""
        return self._optional("profile", None)

    @cached_property
    def model(self) -> ModelSettings:
        """The classifier and its engine."""
        return self._optional("model", ModelSettings())

    @cached_property
    def location(self) -> LocationSettings:
        """How cells are located."""
        return self._optional("location", LocationSettings())

    @cached_property
    def sequence(self) -> SequenceSettings | None:
        """The sequence model."""
        return self._optional("sequence", None)

    @cached_property
    def run(self) -> RunSettings:
        """Settings of the run process."""
        return self._optional("run", RunSettings())

    @cached_property
    def alarms(self) -> AlarmSettings:
        """Limits of disk and temperature."""
        return self._optional("alarms", AlarmSettings())

    @cached_property
    def broker(self) -> BrokerSettings:
        """Where results are published; needs a settings file."""
        if self.config is None:
            raise SettingMissing("broker")
        return self._optional("broker", BrokerSettings())

    def _required(self, name: str) -> Any:
        if name not in self.parts:
            raise SettingMissing(name)
        return self.parts[name]

    def _optional(self, name: str, default: T) -> T:
        """Return a part that may be left out.

        In an invalid file a missing part may be the wrong one. Then it has no default.
        """
        if name in self.parts:
            part: T = self.parts[name]
            return part
        if self.config_error is not None:
            raise SettingMissing(name)
        return default


def nearest_existing(folder: Path) -> Path:
    """Return `folder`, or the nearest folder above it that this user can see."""
    while not os.access(folder, os.F_OK) and folder != folder.parent:
        folder = folder.parent
    return folder


def read_device(config: Path | None) -> ExaminedDevice:
    """Read a settings file as far as it can be read; never raises.

    Without one, the file of the systemd units is read, if there is one.
    """
    if config is None and DEFAULT_CONFIG.exists():
        config = DEFAULT_CONFIG
    if config is None:
        return ExaminedDevice(None)
    try:
        settings = read_toml(config, DeviceFile)
    except ConfigurationInvalid as error:
        return ExaminedDevice(config, str(error), read_good_parts(config, DeviceFile))
    return ExaminedDevice(config, None, msgspec.structs.asdict(settings))
