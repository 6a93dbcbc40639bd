"""Find the cameras of a configuration of Micro-Manager."""

from __future__ import annotations

from collections.abc import Iterator

from edge.settings.sources import MicroManagerSettings
from edge.sources.discovery import FoundCamera, describe_controls
from edge.sources.micromanager.controls import MicroManagerControls, serial_of
from edge.sources.micromanager.core import CORE_ERRORS, one_line, open_core


def micromanager_cameras(settings: MicroManagerSettings) -> Iterator[FoundCamera | str]:
    """Yield each camera of a configuration, with the properties that can be set.

    Raises
    ------
    SourceLost, ConfigurationInvalid
        The configuration cannot be opened.
    """
    core = open_core(settings)
    from pymmcore_plus import DeviceType

    try:
        for label in core.getLoadedDevicesOfType(DeviceType.Camera):
            name = f"{core.getDeviceLibrary(label)}/{core.getDeviceName(label)}"
            settable = [
                property_
                for property_ in core.getDevicePropertyNames(label)
                if not core.isPropertyReadOnly(label, property_)
            ]
            controls = describe_controls(MicroManagerControls(core, label))
            yield FoundCamera(
                "micromanager",
                f'camera = "{label}"',
                f"{name} {serial_of(core, label)}".strip(),
                f"{controls}; properties: {', '.join(settable)}",
            )
    except CORE_ERRORS as error:
        yield one_line(error)
    finally:
        core.unloadAllDevices()
