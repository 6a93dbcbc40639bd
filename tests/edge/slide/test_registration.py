from __future__ import annotations

import numpy as np
import pytest

from edge.slide.registration import Shift, prepare_thumbnail, register
from edge.stages.thumbnail import Thumbnail
from tests.edge.slide.slides import SCALE, Ground

AT = (480, 300)


def laid(first: Thumbnail, second: Thumbnail) -> Shift | None:
    return register(prepare_thumbnail(first), prepare_thumbnail(second))


@pytest.mark.parametrize(
    "step",
    [(0, 0), (3, -2), (100, 40), (-250, 30), (330, -120), (-10, 240), (-350, -100)],
)
def test_a_shift_is_found_to_a_tenth_of_a_micrometre(
    ground: Ground, step: tuple[int, int]
) -> None:
    x, y = AT[0] + step[0], AT[1] + step[1]

    shift = laid(ground.view(*AT), ground.view(x, y, seed=1))

    assert shift is not None
    assert (shift.x_px, shift.y_px) == pytest.approx(
        (step[0] * SCALE, step[1] * SCALE), abs=0.15
    )
    assert shift.correlation > 0.85


@pytest.mark.parametrize("changes", [{"blur_px": 2.5}, {"light": 0.4}])
def test_neither_focus_nor_lamp_hides_a_place(
    ground: Ground, changes: dict[str, float]
) -> None:
    shift = laid(ground.view(*AT), ground.view(AT[0] + 90, AT[1] - 60, **changes))

    assert shift is not None
    assert (shift.x_px, shift.y_px) == pytest.approx((30, -20), abs=0.3)


def test_unlike_places_are_refused(ground: Ground) -> None:
    corners = [(x, y) for x in (0, 480, 960) for y in (0, 300, 600)]
    views = [prepare_thumbnail(ground.view(x, y)) for x, y in corners]

    found = [register(a, b) for a in views for b in views if a is not b]

    assert found == [None] * 72


def test_too_little_overlap_is_refused(ground: Ground) -> None:
    assert laid(ground.view(*AT), ground.view(AT[0] + 460, AT[1])) is None


def test_noise_of_an_empty_field_is_no_place() -> None:
    random = np.random.default_rng(0)
    first, second = (
        np.clip(random.normal(220, 2, (100, 160)), 0, 255).astype(np.uint8)
        for _ in range(2)
    )

    assert laid(first, second) is None
    assert laid(np.full_like(first, 220), np.full_like(first, 220)) is None


def test_views_of_another_size_are_refused(ground: Ground) -> None:
    view = ground.view(*AT)

    assert laid(view, view[:90]) is None
