"""The settings file itself."""

from __future__ import annotations

from collections.abc import Iterator

from edge.doctor.device import DEFAULT_CONFIG, ExaminedDevice
from edge.doctor.findings import Finding, fault, ok, warning


def check_settings(device: ExaminedDevice) -> Iterator[Finding]:
    """Check whether `run` and `publish` accept the settings."""
    if device.config is None:
        yield warning(
            "settings",
            f"no settings file was given, and {DEFAULT_CONFIG} does not exist",
            "copy examples/device.toml, edit it, and name it with --config",
        )
    elif device.config_error is not None:
        yield fault(
            "settings",
            device.config_error,
            f"correct it, then run `hemascope run --check --config {device.config}`",
        )
    else:
        yield ok("settings", f"{device.config}: device {device.name}")
