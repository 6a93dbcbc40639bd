"""Read image files, refusing what is cut short instead of showing half of it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from edge.errors import FrameRejected
from edge.frames import Counts

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})


def read_image(path: Path) -> Counts:
    """Read one image as (H, W, 3) uint8 or uint16 RGB.

    Raises
    ------
    FrameRejected
        The file cannot be read, is no image, or ends too early.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FrameRejected(f"{path}: {error.strerror}") from error
    return decode_image(data, str(path))


def decode_image(data: bytes, name: str) -> Counts:
    """Decode one encoded image as (H, W, 3) uint8 or uint16 RGB.

    Raises
    ------
    FrameRejected
        It is no image, ends too early, or holds numbers that are not counts.
    """
    if _is_cut_short(data):
        raise FrameRejected(
            f"{name}: the image ends after {len(data)} bytes, before its end marker; "
            "copy it again"
        )
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if pixels is None:
        raise FrameRejected(
            f"{name}: not an image that can be read ({len(data)} bytes); expected one "
            f"of {sorted(SUFFIXES)}"
        )
    if pixels.dtype not in (np.uint8, np.uint16):
        raise FrameRejected(
            f"{name}: its pixels are {pixels.dtype}, expected 8- or 16-bit counts; "
            "floating-point images may hold NaN and are refused"
        )
    return np.asarray(pixels)


def _is_cut_short(data: bytes) -> bool:
    """Look for the end marker: decoders fill what is missing with grey."""
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in data[-64:]
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data[-64:]
    return False
