"""A whole slide is examined as the picture that it was made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile

from edge.pipeline.images.classify_images import classify
from edge.pipeline.parts import Parts
from edge.pipeline.pixel_size import Scale
from edge.settings.sources import SimulatedSettings
from edge.simulation.microscope import SimulatedMicroscope

UM = 0.2


def test_a_slide_gives_the_cells_of_its_picture(parts: Parts, tmp_path: Path) -> None:
    """Its right half is glass, which is passed over."""
    bench = SimulatedMicroscope(
        SimulatedSettings(
            width_px=960, height_px=720, rate_hz=0, seed=4, pixel_size_um=UM
        )
    )
    field = bench.render(0)
    glass = np.percentile(field, 90, axis=(0, 1)).astype(np.uint8)
    scan = glass + np.random.default_rng(0).integers(0, 4, (720, 1920, 3), np.uint8)
    scan[:, :960] = field
    slide, picture = tmp_path / "slide.ome.tif", tmp_path / "picture.tif"
    layout = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib"}
    with tifffile.TiffWriter(slide, ome=True) as file:
        file.write(scan, subifds=1, metadata={"PhysicalSizeX": UM}, **layout)
        file.write(scan[::8, ::8], subfiletype=1, **layout)
    tifffile.imwrite(picture, scan[:, :960], photometric="rgb")
    told: list[tuple[int, int]] = []

    pipeline = replace(parts.open_pipeline(), scale=Scale(None))
    # The limit is for images that are decoded at once.
    (of_slide,) = classify(
        [slide], pipeline, None, lambda *tile: told.append(tile), max_megapixels=0.1
    )
    (of_picture,) = classify([picture], pipeline, UM)
    pipeline.close()

    assert of_slide.error is None
    assert of_slide.examined is not None
    assert of_picture.examined is not None
    found, expected = of_slide.examined.result, of_picture.examined.result
    assert (found.width_px, found.height_px) == (1920, 720)
    assert (found.pixel_size_um, found.status) == (UM, "ok"), found.reason
    assert told[-1][1] < 4  # the tiles of glass are passed over
    assert len(expected.cells) > 50
    assert abs(len(found.cells) - len(expected.cells)) <= 0.05 * len(expected.cells)
