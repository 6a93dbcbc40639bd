from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.pipeline.images import large_image
from edge.pipeline.images.large_image import examine_image
from edge.pipeline.parts import Parts
from edge.pipeline.pipeline import Pipeline
from edge.pipeline.pixel_size import Scale
from edge.schema.results import FrameResult, cells_found
from edge.settings.sources import SimulatedSettings
from edge.simulation.microscope import SimulatedMicroscope
from tests.conftest import exposure_of

Field = NDArray[np.uint8]
UM = 0.2


@pytest.fixture(scope="module")
def pipeline(parts: Parts) -> Iterator[Pipeline]:
    opened = parts.open_pipeline()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def field() -> Field:
    """A field of whole cells: those that its border cuts are painted over."""
    settings = SimulatedSettings(
        width_px=560, height_px=480, rate_hz=0, seed=4, pixel_size_um=UM
    )
    bench = SimulatedMicroscope(settings)
    painted = np.array(bench.render(0), np.uint8)
    random = np.random.default_rng(0)
    pale = np.percentile(painted, 90, axis=(0, 1)) + random.normal(0, 2, (480, 560, 3))
    for cell in bench.truth(0, least_visible=0.0):
        x0, y0, x1, y1 = (round(v) for v in cell.box)
        if min(x0, y0, 560 - x1, 480 - y1) < 4:
            part = np.s_[max(y0 - 4, 0) : y1 + 4, max(x0 - 4, 0) : x1 + 4]
            painted[part] = pale[part]
    return painted


def examine(
    pipeline: Pipeline, pixels: Field, um: float | None = UM
) -> tuple[FrameResult, list[tuple[int, int]]]:
    told: list[tuple[int, int]] = []
    exposure = exposure_of(pixels, pixel_size_um=um)
    own = replace(pipeline, scale=Scale(None, agreeing=1))
    examined = examine_image(own, exposure, lambda *done: told.append(done))
    return examined.result, told


def test_tiles_find_what_is_found_at_once(
    pipeline: Pipeline, field: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    mosaic = np.tile(field, (3, 3, 1))
    tiled, told = examine(pipeline, mosaic)
    assert told[-1] == (4, 4)
    monkeypatch.setattr(large_image, "_MAX_REDUCED_PX", 2000)
    whole, told = examine(pipeline, mosaic)
    assert told == []
    one, _ = examine(pipeline, field)

    assert (tiled.width_px, tiled.height_px) == (1680, 1440)
    assert tiled.status == whole.status == "ok", tiled.reason
    assert tiled.counts["RBC"] == pytest.approx(whole.counts["RBC"], rel=0.02)
    assert tiled.counts["RBC"] == pytest.approx(9 * one.counts["RBC"], rel=0.05)
    assert tiled.counts["Platelet"] == pytest.approx(whole.counts["Platelet"], abs=4)


def test_more_cells_than_a_row_holds_are_all_counted(
    pipeline: Pipeline, field: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    for home in ("frame_record", "images.large_image"):
        monkeypatch.setattr(f"edge.pipeline.{home}.MAX_CELLS", 60)
    monkeypatch.setattr(large_image, "TILE_PX", 200)

    result, told = examine(pipeline, field)

    assert told
    assert cells_found(result) == len(result.cells) > 60
    assert sum(result.counts.values()) == len(result.cells)


def test_what_is_wrong_with_some_tiles_is_said(
    pipeline: Pipeline, field: Field
) -> None:
    scan = np.tile(field, (3, 4, 1))
    scan[:, 900:] = cv2.GaussianBlur(scan[:, 900:], (0, 0), 12)

    result, told = examine(pipeline, scan)

    assert result.status == "degraded"
    assert result.reason is not None
    assert f" of {told[-1][1]} tiles)" in result.reason
    assert "blurred: " in result.reason


def test_the_scale_of_a_scan_is_read_off_its_cells(
    pipeline: Pipeline, field: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_image, "_MAX_FRAME_PX", 1000)
    monkeypatch.setattr(large_image, "_SAMPLE_PX", (560, 480))
    result, told = examine(pipeline, np.tile(field, (2, 2, 1)), None)

    assert told
    assert result.pixel_size_origin == "estimated"
    assert result.pixel_size_um == pytest.approx(UM, rel=0.1)
