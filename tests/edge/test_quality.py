from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge.quality import measure_quality
from edge.sources.simulated import SimulatedMicroscope


def test_focus_falls_with_blur(microscope: SimulatedMicroscope) -> None:
    frame = microscope.render(0)
    figures = [
        measure_quality(blurred, blurred, None).focus
        for blurred in (
            frame,
            cv2.GaussianBlur(frame, (0, 0), 2),
            cv2.GaussianBlur(frame, (0, 0), 5),
        )
    ]

    assert figures[0] > 2 * figures[1]
    assert figures[1] > 1.2 * figures[2]


def test_saturation_is_the_share_of_values_at_full_scale() -> None:
    frame = np.full((40, 40, 3), 100, np.uint8)
    frame[:10] = 255

    assert measure_quality(frame, frame, None).saturated == 0.25


@pytest.mark.parametrize("white", [(240, 240, 240), (225, 235, 250), (250, 230, 220)])
def test_the_background_is_compared_with_the_calibrated_white(
    white: tuple[int, int, int],
) -> None:
    frame = np.full((40, 40, 3), (240, 238, 236), np.uint8)
    frame[:20] = (180, 90, 100)

    color = pytest.importorskip("skimage.color")
    quality = measure_quality(frame, frame, np.array(white, np.uint8))

    lab = color.rgb2lab(np.array([[(240, 238, 236), white]]) / 255)[0]
    expected = color.deltaE_cie76(lab[0], lab[1])
    assert quality.background == (240.0, 238.0, 236.0)
    assert quality.background_delta_e == pytest.approx(expected, abs=0.1)


def test_without_a_calibration_there_is_nothing_to_compare_with() -> None:
    frame = np.full((8, 8, 3), 200, np.uint8)

    assert measure_quality(frame, frame, None).background_delta_e is None
