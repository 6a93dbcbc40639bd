"""The page of a field calibration: what the field was, and what it becomes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.field import EmptyField
from calibration.pages import Grid, Heading, Picture, Words, write_pages
from edge.correction import correct, prepare
from edge.frames import RawFrame
from edge.profile import Profile

_WIDTH_PX = 960
_PLOT_PX = (360, 960)
_RED, _GREEN, _BLUE = (190, 60, 60), (40, 130, 70), (60, 90, 190)
_INK, _PAPER = (70, 78, 90), (255, 255, 255)
Image = NDArray[np.uint8]


def write_field_page(
    folder: Path, field: EmptyField, profile: Profile, frames: Sequence[RawFrame]
) -> Path:
    """Write `report.html` and `report.md` into the profile's folder."""
    raw = frames[len(frames) // 2].pixels
    height, width = raw.shape[:2]
    after = correct(raw, prepare(profile, width, height, raw.dtype))
    before = (raw / (field.full_scale / 255)).astype(np.uint8)
    black = "not measured" if field.black_level is None else f"{field.black_level:.1f}"
    white = " / ".join(f"{value:.1f}" for value in field.white_point)
    return write_pages(
        folder,
        "Field calibration",
        [
            Words(
                "Left as the camera saw an empty field, right as every frame is "
                "corrected from now on, until the next calibration."
            ),
            Picture(
                "fields",
                _png(np.hstack([_half(before), _half(after)])),
                "The empty field before and after",
                "The right one should be one even grey; a cast, a dark corner or the "
                "shadow of a cell would show.",
            ),
            Grid(
                ["measured", "value"],
                [
                    ["frames", str(len(frames))],
                    ["size", f"{width} x {height} px"],
                    ["black level", black],
                    [
                        "white point, red / green / blue",
                        f"{white} of {field.full_scale}",
                    ],
                    ["darkest place over brightest", f"{field.flat_field.min():.3f}"],
                    ["uneven around the fit", f"{field.uneven:.2%}"],
                    ["noise of a count", f"{field.noise:.2f}"],
                    ["calibration id", str(profile.calibration_id)],
                ],
            ),
            Heading("Flat field"),
            Picture(
                "flat-field",
                _png(_map(field.flat_field[..., 1])),
                "Light over the field, green channel",
                f"Dark blue is {field.flat_field[..., 1].min():.2f} of the brightest "
                "place, yellow is 1.",
            ),
            Picture(
                "profiles",
                _png(_profiles(before, after)),
                "Counts along the middle row, before (thin) and after (thick)",
                "From the left border to the right one, 0 to 255. After the correction "
                "the lines lie flat and upon each other.",
            ),
        ],
    )


def _half(image: Image) -> Image:
    """Reduce to half the width of the page."""
    height = round(image.shape[0] * _WIDTH_PX / 2 / image.shape[1])
    small = cv2.resize(image, (_WIDTH_PX // 2, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def _map(share: NDArray[np.float32]) -> Image:
    spread = max(float(np.ptp(share)), 1e-3)
    grey = ((share - share.min()) / spread * 255).astype(np.uint8)
    height = round(grey.shape[0] * _WIDTH_PX / grey.shape[1])
    large = cv2.resize(grey, (_WIDTH_PX, height))
    coloured = cv2.applyColorMap(large, cv2.COLORMAP_CIVIDIS)
    return np.asarray(cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB), np.uint8)


def _profiles(before: Image, after: Image) -> Image:
    """Draw the middle rows, each a mean over some, so that grain hides nothing."""
    height, width = _PLOT_PX
    plot = np.full((height, width, 3), _PAPER, np.uint8)
    for level in (0, 64, 128, 192, 255):
        y = _y(level)
        cv2.line(plot, (0, y), (width, y), (226, 226, 226), 1)
        cv2.putText(
            plot,
            str(level),
            (4, y - 3),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.4,
            _INK,
            1,
            cv2.LINE_AA,
        )
    for image, thickness in ((before, 1), (after, 3)):
        middle = image.shape[0] // 2
        rows = image[max(0, middle - 8) : middle + 9].mean(axis=0)
        line = cv2.resize(rows[None], (width, 1), interpolation=cv2.INTER_AREA)[0]
        for channel, colour in enumerate((_RED, _GREEN, _BLUE)):
            points = [(x, _y(value)) for x, value in enumerate(line[:, channel])]
            cv2.polylines(
                plot,
                [np.array(points, np.int32)],
                False,
                colour,
                thickness,
                cv2.LINE_AA,
            )
    return plot


def _y(level: float) -> int:
    return round(12 + (1 - float(level) / 255) * (_PLOT_PX[0] - 24))


def _png(image: Image) -> bytes:
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"an image of shape {image.shape} cannot be written as PNG")
    return data.tobytes()
