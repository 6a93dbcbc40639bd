from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from calibration.reference import plasma_colour
from edge.simulation.microscope import SimulatedMicroscope
from training.data.colour_normalisation import colour_profiles
from training.data.layouts.manifest import read_manifest
from training.data.rows import developed


def test_plasma_is_the_brightest_part_of_a_smear(
    microscope: SimulatedMicroscope,
) -> None:
    field = microscope.render(0)
    lamp = np.array([0.9, 0.75, 0.6])

    before, after = plasma_colour(field), plasma_colour((field * lamp).astype(np.uint8))

    np.testing.assert_allclose(after, before * lamp, atol=2)


def test_every_laboratory_gets_the_same_white(manifest: Path, tmp_path: Path) -> None:
    """One of the two is dimmed and tinted; corrected, its plasma is as white."""
    rows = [row for row in read_manifest(manifest) if row.label == "Plasma"]
    for row in {r.path: r for r in rows if r.domain == "giemsa"}.values():
        image = cv2.imread(str(row.path))
        tinted = (image * [0.6, 0.8, 0.9]).astype(np.uint8)
        cv2.imwrite(str(tmp_path / row.path.name), tinted)
    rows = [
        replace(row, path=tmp_path / row.path.name) if row.domain == "giemsa" else row
        for row in rows
    ]

    profiles = colour_profiles(rows, "white-point")
    assert set(profiles) == {"giemsa", "wright"}
    for row in rows:
        white = plasma_colour(developed(row, profiles[row.domain]))
        np.testing.assert_allclose(white, 217, atol=10)  # slides of one bench differ


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_white_point_is_in_counts(dtype: type[np.integer]) -> None:
    counts = np.full((30, 30, 3), 200, dtype)

    np.testing.assert_array_equal(plasma_colour(counts), [200, 200, 200])
