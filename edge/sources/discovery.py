"""Which cameras are connected, under the address that the settings want."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from edge.errors import HemascopeError
from edge.settings.sources import MicroManagerSettings
from edge.sources.camera_controls import (
    COLOURS,
    CONTROLS,
    CameraControls,
    ControlNotApplied,
)
from edge.sources.control_values import show
from edge.sources.genicam.discovery import answering, aravis
from edge.sources.micromanager.controls import MicroManagerControls, serial_of
from edge.sources.micromanager.core import SAYS_NO, line, open_core
from edge.sources.v4l2 import BY_ID, V4L2Controls, identity

_DEVICES = Path("/dev")
_VALUES = ("exposure_ms", "gain", "white_balance_k", "gamma")


class FoundCamera(NamedTuple):
    """A camera: what to write into [source], what it is, how it is set and may be."""

    kind: str
    address: str
    about: str
    controls: str = ""


def v4l2_cameras(
    devices: Path = _DEVICES, by_id: Path = BY_ID
) -> Iterator[FoundCamera | str]:
    """Yield each V4L2 device that gives pictures, or why one cannot be asked."""
    for node in sorted(devices.glob("video*"), key=lambda p: (len(p.name), p.name)):
        try:
            knobs = V4L2Controls(str(node))
        except OSError as error:
            yield f"{node}: {error.strerror}; join the group video"
            continue
        with closing(knobs):
            told = knobs.capability()
            if told is None or not told.gives_pictures:
                continue
            address = identity(str(node), by_id)
            about = f"{told.card} ({told.driver}, {told.bus})"
            if address == str(node):
                about += ", no path by id: may be another camera after a restart"
            yield FoundCamera("opencv", f'device = "{address}"', about, _set_so(knobs))


def genicam_cameras() -> Iterator[FoundCamera | str]:
    """Yield each GenICam camera that answers on the network and on USB."""
    try:
        found = answering(aravis())
    except HemascopeError as error:
        yield str(error)
        return
    for one in found:
        about = f"{one.protocol}, serial {one.serial or 'unknown'}, {one.address}"
        yield FoundCamera("genicam", f'camera = "{one.id}"', about.rstrip(", "))


def micromanager_cameras(settings: MicroManagerSettings) -> Iterator[FoundCamera | str]:
    """Yield each camera of a configuration of Micro-Manager, with its properties.

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
            yield FoundCamera(
                "micromanager",
                f'camera = "{label}"',
                f"{name} {serial_of(core, label)}".strip(),
                f"{_set_so(MicroManagerControls(core, label))}; properties: "
                f"{', '.join(settable)}",
            )
    except SAYS_NO as error:
        yield line(error)
    finally:
        core.unloadAllDevices()


def _set_so(knobs: CameraControls) -> str:
    """Say what can be set, to what, what it is now, and what is automatic."""
    values = []
    for value in (*_VALUES, *(f"balance.{colour}" for colour in COLOURS)):
        span = knobs.span(value)
        if span is None:
            continue
        try:
            now = show(value, knobs.get(value))
        except ControlNotApplied as error:
            now = f"unreadable, {error}"
        values.append(f"{value} {now} ({span.low:g} to {span.high:g})")
    automatic = []
    for control in CONTROLS:
        try:
            if knobs.automatic(control):
                automatic.append(control)
        except ControlNotApplied:
            continue
    values.append(f"automatic: {', '.join(automatic) or 'nothing'}")
    return ", ".join(values)
