from __future__ import annotations

import cv2
import numpy as np
from msgspec import UNSET

from edge.schema.results import Filmstrip
from edge.timelapse.filmstrips import MAX_LATEST, MAX_SPREAD, SIDE_PX, Filmstrips


def seen(frames: int, side_px: int = SIDE_PX) -> Filmstrips:
    """Show a cell, number 7, that brightens by one grey level per frame."""
    films = Filmstrips()
    for frame in range(frames):
        crops = np.full((1, side_px, side_px, 3), frame % 256, np.uint8)
        films.add_frame(100 + frame, np.array([7]), crops)
    return films


def strip_of(films: Filmstrips) -> Filmstrip:
    strip = films.filmstrip(7)
    assert isinstance(strip, Filmstrip)
    return strip


def test_a_strip_holds_a_whole_history_and_its_end() -> None:
    strip = strip_of(seen(1000))

    assert strip.frames[0] == 100
    assert strip.frames[-MAX_LATEST:] == (1096, 1097, 1098, 1099)
    steps = np.diff(strip.frames[:-MAX_LATEST])
    assert len(set(steps.tolist())) == 1
    assert steps.sum() > 500
    assert len(strip.frames) <= MAX_SPREAD + MAX_LATEST


def test_pictures_stand_in_the_order_of_their_frames() -> None:
    strip = strip_of(seen(10, side_px=48))

    assert strip.frames == (100, 102, 104, 106, 107, 108, 109)
    picture = cv2.imdecode(np.frombuffer(strip.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (SIDE_PX, 7 * SIDE_PX, 3)
    greys = picture.reshape(SIDE_PX, 7, SIDE_PX, 3).mean(axis=(0, 2, 3))
    assert np.abs(greys - [0, 2, 4, 6, 7, 8, 9]).max() < 1


def test_a_cell_that_is_gone_has_no_pictures() -> None:
    films = seen(5)

    films.forget([7, 8])

    assert films.filmstrip(7) is UNSET
