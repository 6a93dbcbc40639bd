"""The demonstration camera of Micro-Manager, as the package index offers it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from edge.settings.sources import MicroManagerSettings


def demo_settings(pixel_type: str) -> MicroManagerSettings:
    """Skips where the optional packages are missing, as on the device's Pythons."""
    if find_spec("pymmcore_plus") is None:  # importing it would set logging up
        pytest.skip("needs hemascope[micromanager]")
    adapters = pytest.importorskip("mm_test_adapters", reason="needs mm-test-adapters")
    folder = Path(adapters.device_adapter_path())
    return MicroManagerSettings(
        config=folder / "MMConfig_demo.cfg",
        adapters=folder,
        properties={"Camera": {"PixelType": pixel_type}},
    )
