"""Recorded frames in, golden results out: what the shipped models say of two frames.

The frames are the simulated microscope's. After exporting other models, look at what
changed and write the results anew: python -m tests.flow.test_golden
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from edge.pipeline.images.classify_images import classify
from edge.pipeline.images.image_lines import ImageLine
from edge.pipeline.parts import read_parts
from edge.settings.sources import SimulatedSettings
from edge.simulation.microscope import SimulatedMicroscope

DATA = Path(__file__).parents[1] / "data"
RESULTS = DATA / "golden.json"
SURE = 0.75  # confidence above which no processor may change the name


def examine() -> dict[str, list[dict[str, object]]]:
    pipeline = read_parts().open_pipeline()
    result = {}
    for done in classify(sorted(DATA.glob("*.jpg")), pipeline, None):
        line = done.line()
        assert isinstance(line, ImageLine)
        result[done.path.name] = [
            {"box": list(c.box), "label": c.label, "confidence": c.confidence}
            for c in line.cells
        ]
    return result


def test_recorded_frames_give_their_golden_results() -> None:
    golden, result = json.loads(RESULTS.read_text()), examine()

    assert result.keys() == golden.keys()
    for name, cells in golden.items():
        found = np.array([c["box"] for c in result[name]], float)
        assert abs(len(found) - len(cells)) <= 1
        for cell in cells:
            near = np.abs(found - np.array(cell["box"], float)).max(axis=1)
            if cell["confidence"] > SURE:
                assert near.min() <= 3, cell
                assert result[name][int(near.argmin())]["label"] == cell["label"]


def record() -> None:
    """Render the frames and write what is said of them."""
    DATA.mkdir(exist_ok=True)
    for number, stain in enumerate(("may-grunwald-giemsa", "wright")):
        bench = SimulatedMicroscope(
            SimulatedSettings(
                width_px=640, height_px=480, rate_hz=0, stain=stain, seed=8
            )  # type: ignore[arg-type]
        )
        bgr = cv2.cvtColor(bench.render(90 * number), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(DATA / f"{stain}.jpg"), bgr)
    RESULTS.write_text(json.dumps(examine(), indent=1) + "\n")


if __name__ == "__main__":
    record()
