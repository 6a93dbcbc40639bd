"""PNG, BMP, WebP and JPEG 2000, by OpenCV: it refuses them where they are damaged."""

from __future__ import annotations

import cv2
import numpy as np

from edge.errors import FrameRejected
from edge.frames import Counts
from edge.sources.decoding.decoded_image import rgb_of
from edge.sources.decoding.headers import Header


def decode_by_opencv(data: bytes, header: Header, name: str) -> Counts:
    """Decode to (H, W, 3) uint8 or uint16 RGB, as it lies in the file: not turned.

    Raises
    ------
    FrameRejected
        It is damaged, transparent, or its pixels are neither of 8 nor 16 bits.
    """
    # Unchanged, as OpenCV would drop transparency and turn deep pictures wrongly. In a
    # BMP the fourth byte is mostly unused.
    flags = cv2.IMREAD_UNCHANGED
    if header.format == "BMP":
        flags = cv2.IMREAD_COLOR_BGR
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # such as more pixels than OpenCV reads
        raise FrameRejected(f"{name}: cannot be decoded: {error.err}") from error
    if decoded is None or decoded.shape[:2] != (header.height_px, header.width_px):
        raise FrameRejected(
            f"{name}: the {header.format} is damaged or cut short "
            f"({len(data)} bytes); copy it again"
        )
    if decoded.dtype not in (np.uint8, np.uint16):
        raise FrameRejected(
            f"{name}: its pixels are {decoded.dtype}, expected 8- or 16-bit counts"
        )
    return rgb_of(decoded, name)
