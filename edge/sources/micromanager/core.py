"""Open a configuration of Micro-Manager, as its own program would."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from edge.errors import ConfigurationInvalid
from edge.frames import SourceLost
from edge.import_faults import import_fault
from edge.settings.sources import MicroManagerSettings
from edge.sources.camera_controls import ControlRefused

CORE_ERRORS = (RuntimeError, ValueError, OSError, IndexError)  # what its core raises


def open_core(settings: MicroManagerSettings) -> Any:
    """Load a configuration and set its presets and properties.

    Raises
    ------
    ConfigurationInvalid
        pymmcore-plus is not installed.
    ControlRefused
        A preset or a property is not taken.
    SourceLost
        The configuration cannot be loaded, for example as a device is not connected.
    """
    core = new_core()
    try:
        if settings.adapters is not None:
            core.setDeviceAdapterSearchPaths([str(settings.adapters)])
        core.loadSystemConfiguration(str(settings.config))
    except CORE_ERRORS as error:
        raise SourceLost(
            f"{settings.config}: {one_line(error)}; open it in Micro-Manager, check "
            f"its adapters: of {core.getAPIVersionInfo()}, in "
            f"{', '.join(core.getDeviceAdapterSearchPaths())}"
        ) from error
    try:
        _set_up(core, settings)
    except SourceLost:
        core.unloadAllDevices()  # or the camera would stay in use
        raise
    return core


def _set_up(core: Any, settings: MicroManagerSettings) -> None:
    """Set presets and properties, and wait until all devices have finished."""
    for group, preset in settings.presets.items():
        _apply(f"preset {group} {preset!r}", core.setConfig, group, preset)
    for device, properties in settings.properties.items():
        for name, wanted in properties.items():
            _set_property(core, device, name, wanted)
    _apply("waiting for all devices", core.waitForSystem)


def _set_property(core: Any, device: str, name: str, wanted: str) -> None:
    text = f"property {device}.{name} = {wanted!r}"
    _apply(text, core.setProperty, device, name, wanted)
    got = str(_apply(f"{text}, reading it back", core.getProperty, device, name))
    if got != wanted and not _is_same_number(got, wanted):
        allowed = ", ".join(core.getAllowedPropertyValues(device, name)) or "others"
        raise ControlRefused(f"{text}: it is {got!r} afterwards; it takes {allowed}")


def _is_same_number(one: str, other: str) -> bool:
    try:
        return float(one) == float(other)
    except ValueError:
        return False


def _apply(text: str, call: Callable[..., Any], *arguments: str) -> Any:
    try:
        return call(*arguments)
    except CORE_ERRORS as error:
        raise ControlRefused(f"{text} is refused: {one_line(error)}") from error


def new_core() -> Any:
    """Return a new core. Importing pymmcore-plus sets logging up, which is undone."""
    os.environ.setdefault("PYMM_LOG_FILE", os.devnull)  # services have no home
    level = logging.root.level
    try:
        from pymmcore_plus import CMMCorePlus
    except ImportError as error:
        raise ConfigurationInvalid(
            f"Micro-Manager is not available to Python: {import_fault(error) or error}"
        ) from error
    logging.root.setLevel(level)
    logger = logging.getLogger("pymmcore-plus")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    return CMMCorePlus()


def one_line(error: Exception) -> str:
    """Return the message of the core in one line."""
    return " ".join(str(error).split())
