"""Read image files, and refuse incomplete ones instead of showing half of them."""

from __future__ import annotations

import os
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
        raise FrameRejected(f"{printable(path)}: {error.strerror}") from error
    return decode_image(data, printable(path))


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
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:  # such as more pixels than OpenCV reads
        raise FrameRejected(f"{name}: cannot be decoded: {error.err}") from error
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
    """Whether the end marker is missing: decoders fill the missing part with grey.

    Cameras pad their buffers with zeros, so what follows the marker may be zeros.
    """
    for start, end in ((b"\xff\xd8", b"\xff\xd9"), (b"\x89PNG", b"IEND")):
        if data.startswith(start):
            return end not in data.rstrip(b"\0")[-64:]
    return False


def printable(path: Path) -> str:
    """Return a path as text that can be written as UTF-8, whatever bytes it holds."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
