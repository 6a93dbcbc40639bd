"""A small laboratory of simulated fields with a manifest, as real data would come."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.settings.sources import SimulatedSettings
from edge.simulation.microscope import SimulatedMicroscope

COLUMNS = (
    "path",
    "licence",
    "split",
    "label",
    "x0",
    "y0",
    "x1",
    "y1",
    "task",
    "domain",
    "group",
    "label_origin",
)


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighteen fields of two laboratories, and one whose licence forbids use."""
    folder = tmp_path_factory.mktemp("data")
    rows: list[dict[str, object]] = []
    for number in range(18):
        stain = ("wright", "giemsa")[number % 2]
        bench = SimulatedMicroscope(
            SimulatedSettings(
                width_px=420,
                height_px=320,
                rate_hz=0,
                pixel_size_um=0.14,
                stain=stain,
                seed=number,  # type: ignore[arg-type]
            )
        )
        name = f"field-{number}.png"
        bgr = cv2.cvtColor(bench.render(0), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / name), bgr)
        common = {
            "path": name,
            "licence": "GPL-3.0" if number == 17 else "MIT",
            "split": ("train", "train", "val", "test")[number // 5],
            "task": "cells4",
            "domain": stain,
            "group": f"slide-{number // 5}",
            "label_origin": "simulated (RBC incomplete)"
            if number == 0
            else "simulated",
        }
        for cell in bench.truth(0):
            box = dict(zip(("x0", "y0", "x1", "y1"), cell.box, strict=True))
            rows.append({**common, "label": cell.label, **box})
        rows.append({**common, "label": "Plasma", "x0": 5, "y0": 5, "x1": 40, "y1": 40})
    path = folder / "manifest.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)
