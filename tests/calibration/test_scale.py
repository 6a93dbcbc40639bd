from __future__ import annotations

import cv2
import numpy as np
import pytest

from calibration.scale import ScaleRefused, measure_rulings


def micrometer(
    period_px: float,
    angle_deg: float = 0.0,
    *,
    size: tuple[int, int] = (600, 960),
    is_bright: bool = False,
    blur_px: float = 1.0,
    noise: float = 4.0,
    longer_every: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """Rulings across the frame; every fifth is longer, as on a real one."""
    height, width = size
    y, x = (
        np.mgrid[0:height, 0:width] - np.array([height / 2, width / 2])[:, None, None]
    )
    angle = np.radians(angle_deg)
    across = x * np.cos(angle) + y * np.sin(angle)
    beside = -x * np.sin(angle) + y * np.cos(angle)
    number = np.rint(across / period_px)
    on_line = np.abs(across - number * period_px) < 0.08 * period_px
    length = np.where(number % longer_every == 0, 0.45, 0.3) * min(size)
    on_line &= np.abs(beside) < length
    field = (
        np.where(on_line, 60.0, 215.0) if not is_bright else np.where(on_line, 200, 30)
    )
    field = cv2.GaussianBlur(field.astype(np.float64), (0, 0), blur_px)
    field *= 1 - 0.2 * (x / width) ** 2
    field += np.random.default_rng(seed).normal(0, noise, size)
    return np.clip(field, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("period_px", [12.3, 28.57, 71.4, 95.0])
@pytest.mark.parametrize("angle_deg", [0.0, 3.7, 45.0, 90.0, -62.0])
def test_rulings_are_read_to_a_part_in_five_hundred(
    period_px: float, angle_deg: float
) -> None:
    scale = measure_rulings(micrometer(period_px, angle_deg), 10.0)

    truth = 10.0 / period_px
    assert scale.um == pytest.approx(truth, rel=2e-3)
    turned = scale.angle_deg - angle_deg
    assert min(turned % 180, -turned % 180) < 0.5


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    held = 0
    for seed in range(20):
        image = micrometer(31.7, 11.0, noise=25.0, blur_px=2.0, seed=seed)
        scale = measure_rulings(image, 10.0)
        held += scale.low_um <= 10 / 31.7 <= scale.high_um
        assert scale.high_um - scale.low_um < 0.005 * scale.um

    assert held >= 19


@pytest.mark.parametrize("is_bright", [True, False])
def test_lines_may_be_bright_or_dark_grey_or_sixteen_bits(is_bright: bool) -> None:
    image = micrometer(40.0, is_bright=is_bright)
    colour = np.stack([image] * 3, -1).astype(np.uint16) * 257

    for shown in (image, colour):
        assert measure_rulings(shown, 10.0).um == pytest.approx(0.25, rel=2e-3)


def noise() -> np.ndarray:
    return (
        np.random.default_rng(0)
        .normal(128, 30, (400, 600))
        .clip(0, 255)
        .astype(np.uint8)
    )


def three_lines() -> np.ndarray:
    return micrometer(330.0, size=(300, 960))


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (noise(), "no rulings stand out|off an even spacing"),
        (np.full((300, 400), 200, np.uint8), "no rulings stand out"),
        (three_lines(), "lines|no rulings"),
    ],
    ids=["noise", "nothing", "three lines"],
)
def test_what_is_no_micrometer_is_refused(image: np.ndarray, says: str) -> None:
    with pytest.raises(ScaleRefused, match=says):
        measure_rulings(image, 10.0)


def test_a_division_that_makes_a_senseless_scale_is_refused() -> None:
    """So that no profile is written that cannot be read again."""
    with pytest.raises(ScaleRefused, match=r"expected 0\.01 to 2 µm.*--division-um"):
        measure_rulings(micrometer(12.0), 1000.0)
