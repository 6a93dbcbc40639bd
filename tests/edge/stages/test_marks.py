from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.frames import Counts
from edge.simulation.microscope import SimulatedMicroscope
from edge.stages.marks import find_marks, without_marks

Field = NDArray[np.uint8]


@pytest.fixture(scope="module")
def field(microscope: SimulatedMicroscope) -> Field:
    return np.asarray(microscope.render(0), np.uint8)


def with_bar(field: Field, colour: int = 0) -> Field:
    drawn = field.copy()
    cv2.rectangle(drawn, (420, 440), (560, 446), (colour,) * 3, cv2.FILLED)
    return drawn


def with_circle(field: Field) -> Field:
    lit = np.zeros(field.shape[:2], np.uint8)
    cv2.circle(lit, (320, 240), 230, 1, cv2.FILLED)
    return np.where(lit[..., None] > 0, field, np.uint8(6))


def with_frame(field: Field) -> Field:
    drawn = field.copy()
    drawn[:12], drawn[-12:] = 128, 128
    return drawn


def test_a_field_of_cells_has_no_marks(field: Field) -> None:
    assert find_marks(field) is None
    assert find_marks(field.astype(np.uint16) * 257) is None
    assert find_marks(np.full((48, 64, 3), 200, np.uint8)) is None


@pytest.mark.parametrize("deep", [False, True], ids=["8 bit", "16 bit"])
@pytest.mark.parametrize(
    ("draw", "is_surround"),
    [(with_bar, False), (with_circle, True), (with_frame, True)],
)
def test_what_is_drawn_into_a_field_is_found_and_covered(
    field: Field, draw: Callable[[Field], Field], is_surround: bool, deep: bool
) -> None:
    drawn: Counts = draw(field)
    changed = (drawn != field).any(axis=2)
    if deep:
        drawn = drawn.astype(np.uint16) * np.uint16(257)

    marks = find_marks(drawn)

    assert marks is not None
    assert marks.is_surround is is_surround
    assert marks.mask[changed].mean() > 0.99
    assert marks.share < 1.2 * changed.mean() + 0.02
    assert marks.doubt().fault is None
    filled = without_marks(drawn, marks)
    assert filled.dtype == drawn.dtype
    scale = np.iinfo(drawn.dtype).max
    assert filled[marks.mask > 0].min() > 0.5 * scale  # the colour of the background
    assert (filled[marks.mask == 0] == drawn[marks.mask == 0]).all()


def test_white_text_is_found_where_the_background_is_darker(field: Field) -> None:
    darker = np.asarray(field * 0.8, np.uint8)

    assert find_marks(with_bar(darker, 255)) is not None


def test_a_picture_that_is_mostly_hidden_is_rejected(field: Field) -> None:
    hidden = field.copy()
    hidden[:, 150:] = 0
    marks = find_marks(hidden)

    assert marks is not None
    doubt = marks.doubt()
    assert doubt.fault == "no smear"
    assert "expected at most 60 %" in doubt.reason
