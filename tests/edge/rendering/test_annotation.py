from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge.rendering.annotation import draw, to_jpeg, with_caption
from edge.rendering.class_colours import legend
from tests.conftest import frame_result


def test_a_box_is_drawn_where_the_cell_is_and_the_frame_stays_as_it_was() -> None:
    frame = np.full((100, 200, 3), 240, np.uint8)

    picture = draw(frame, frame_result(cells=1))

    assert (frame == 240).all()
    changed = (picture != 240).any(axis=2)
    assert changed[0, 0:11].all()
    assert not changed[40:, 40:].any()


@pytest.mark.parametrize("width_px", [100, 200, 400])
def test_the_picture_has_the_width_asked_for(width_px: int) -> None:
    frame = np.full((100, 200, 3), 240, np.uint8)

    picture = draw(frame, frame_result(cells=1), width_px)

    assert picture.shape == (width_px // 2, width_px, 3)


def test_deep_frames_are_shown_in_eight_bits() -> None:
    frame = np.full((20, 40, 3), 240 * 257, np.uint16)

    assert (draw(frame, frame_result(cells=0)) == 240).all()


def test_every_class_has_a_colour_of_its_own() -> None:
    colours = dict(legend())

    assert set(colours) == {"RBC", "WBC", "Platelet", "Plasma", "unidentified"}
    assert len(set(colours.values())) == 5


def test_a_jpeg_keeps_red_red() -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 250

    bgr = cv2.imdecode(np.frombuffer(to_jpeg(red), np.uint8), cv2.IMREAD_COLOR)

    assert bgr[..., 2].mean() > 230


def test_an_endless_picture_is_drawn_smaller() -> None:
    tall = np.zeros((3000, 8, 3), np.uint8)

    picture = draw(tall, frame_result(cells=1), 960)

    assert max(picture.shape) == 16_000
    assert to_jpeg(picture).startswith(b"\xff\xd8")


def test_a_caption_is_wrapped_below_the_picture() -> None:
    picture = np.full((100, 400, 3), 90, np.uint8)

    one = with_caption(picture, ["ok"])
    long = with_caption(picture, ["degraded: " + "a reason " * 20])

    assert (one[:100] == 90).all()
    assert one.shape[1] == long.shape[1] == 400
    assert one[100:].min() < 100  # letters
    assert long.shape[0] > one.shape[0] + 40
