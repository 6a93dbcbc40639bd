"""The settings file itself."""

from __future__ import annotations

from collections.abc import Iterator

from edge.doctor.device import USUAL, ExaminedDevice
from edge.doctor.findings import Finding, fault, ok, warning


def check_settings(subject: ExaminedDevice) -> Iterator[Finding]:
    """Say whether `run` and `publish` would take the settings."""
    if subject.config is None:
        yield warning(
            "settings",
            f"no settings file was given, and there is no {USUAL}",
            "copy examples/device.toml, change it, and give it as --config",
        )
    elif subject.refused is not None:
        yield fault(
            "settings",
            subject.refused,
            f"correct it, then `hemascope run --check --config {subject.config}`",
        )
    else:
        yield ok("settings", f"{subject.config}: device {subject.device}")
