"""What tests share: a real broker, simulated frames, the shipped bundles."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge import clock
from edge.demo.broker import Mosquitto, start_broker
from edge.frames import Exposure, RawFrame, Shot
from edge.mqtt import Link, Message
from edge.pipeline.parts import Parts, read_parts
from edge.pipeline.pixel_size import Scale
from edge.schema.results import Cell, FrameRange, FrameResult
from edge.settings.delivery import BrokerSettings
from edge.settings.sources import SimulatedSettings
from edge.simulation.microscope import SimulatedMicroscope

_LONG = ("tests/training/", "tests/edge/engines/")
SMALL = SimulatedSettings(width_px=640, height_px=480, rate_hz=0, seed=3)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files, so that none is left when all others are done."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG))


@pytest.fixture(scope="session", autouse=True)
def one_thread_per_frame() -> None:
    cv2.setNumThreads(1)


@pytest.fixture(scope="session")
def microscope() -> SimulatedMicroscope:
    """A small, still, sharp simulated microscope."""
    return SimulatedMicroscope(SMALL)


@pytest.fixture(scope="session")
def shipped() -> Parts:
    return read_parts()


@pytest.fixture(scope="module")
def parts(shipped: Parts) -> Parts:
    """The shipped bundles, read and verified, and a scale that nobody settled yet."""
    return replace(shipped, scale=Scale(None))


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A mosquitto of this test's own."""
    started = start_broker(tmp_path)
    assert isinstance(started, Mosquitto), "mosquitto is not installed: run make setup"
    yield started
    started.close()


@pytest.fixture
def address(broker: Mosquitto) -> BrokerSettings:
    return BrokerSettings(port=broker.port, keepalive_s=2)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def shot(sequence: int = 0, pixel_size_um: float | None = 0.07) -> Shot:
    return Shot(
        sequence,
        sequence,
        datetime(2026, 1, 1, tzinfo=timezone.utc),
        "test",
        pixel_size_um=pixel_size_um,
    )


def exposure_of(
    pixels: NDArray[np.uint8], sequence: int = 0, pixel_size_um: float | None = 0.07
) -> Exposure:
    taken = shot(sequence, pixel_size_um)
    return Exposure(taken, lambda: RawFrame(taken, pixels))


def frame_result(cells: int = 3, **changes: object) -> FrameResult:
    """What a frame with so many red cells would say."""
    fields: dict[str, object] = {
        "status": "ok",
        "utc": datetime(2026, 1, 1, tzinfo=timezone.utc),
        "monotonic_ns": 1,
        "boot_id": clock.boot_id(),
        "clock_synchronised": True,
        "source": "test",
        "frame": FrameRange(first=0, last=0),
        "software": "0",
        "cells": tuple(
            Cell(
                id=i,
                box=(i, 0, i + 10, 10),
                label="RBC",
                ontology="CL:0000232",
                confidence=0.9,
                probabilities={
                    "RBC": 0.9,
                    "WBC": 0.05,
                    "Platelet": 0.03,
                    "Plasma": 0.02,
                },
                abstained=False,
            )
            for i in range(cells)
        ),
        "counts": {"RBC": cells},
    }
    return FrameResult(**(fields | changes))  # type: ignore[arg-type]


def receive(link: Link, count: int, within_s: float = 5.0) -> list[Message]:
    """What arrives until `count` messages have, or the time is over."""
    messages: list[Message] = []
    deadline = time.monotonic() + within_s
    while len(messages) < count and time.monotonic() < deadline:
        messages += [e for e in link.poll(0.05) if isinstance(e, Message)]
    return messages
