"""Pixel formats of industrial cameras, by the codes of the PFNC, and how to read them.

Only formats whose counts fill whole bytes: packed ones save a quarter of the network
and cost more than that on the processor.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from edge.errors import FrameRejected
from edge.frames import Counts
from edge.sources.bit_depth import over_16_bits


class PixelFormat(NamedTuple):
    """Bits per count, counts per pixel, and OpenCV's code to convert to RGB.

    `conversion` is None where the pixels are RGB already.
    """

    name: str
    bits: int
    channels: int
    conversion: int | None


_MOSAICS = {  # GenICam names the first two pixels of the first row
    "GR": cv2.COLOR_BayerGRBG2RGB,
    "RG": cv2.COLOR_BayerRGGB2RGB,
    "GB": cv2.COLOR_BayerGBRG2RGB,
    "BG": cv2.COLOR_BayerBGGR2RGB,
}
_FIRST_MOSAIC = {8: 0x01080008, 10: 0x0110000C, 12: 0x01100010, 16: 0x0110002E}
_GREY = {
    8: 0x01080001,
    10: 0x01100003,
    12: 0x01100005,
    14: 0x01100025,
    16: 0x01100007,
}

PIXEL_FORMATS: dict[int, PixelFormat] = {
    0x02180014: PixelFormat("RGB8", 8, 3, None),
    0x02180015: PixelFormat("BGR8", 8, 3, cv2.COLOR_BGR2RGB),
    **{
        code: PixelFormat(f"Mono{bits}", bits, 1, cv2.COLOR_GRAY2RGB)
        for bits, code in _GREY.items()
    },
    **{
        first + number: PixelFormat(f"Bayer{name}{bits}", bits, 1, conversion)
        for bits, first in _FIRST_MOSAIC.items()
        for number, (name, conversion) in enumerate(_MOSAICS.items())
    },
}


def to_rgb(data: bytes, width_px: int, height_px: int, code: int) -> Counts:
    """Turn a buffer into RGB.

    Parameters
    ----------
    data
        Rows of pixels, little-endian; what follows them is ignored.
    width_px, height_px
        Of the frame.
    code
        The pixel format's, of `PIXEL_FORMATS`.

    Returns
    -------
    Counts
        (H, W, 3), uint8, or uint16 where a count has more than 8 bits; those are
        spread over 16. A mosaic is interpolated bilinearly, grey repeated.

    Raises
    ------
    FrameRejected
        The format is unknown, or the buffer too short.
    """
    known = PIXEL_FORMATS.get(code)
    if known is None:
        raise FrameRejected(
            f"pixel format {code:#010x} cannot be read here; set pixel_format to RGB8 "
            "or to a Bayer format"
        )
    kind = np.dtype("<u1" if known.bits == 8 else "<u2")
    counts = width_px * height_px * known.channels
    if len(data) < counts * kind.itemsize:
        raise FrameRejected(
            f"buffer of {len(data)} bytes for {width_px}x{height_px} px of "
            f"{known.name}; the camera delivers less than it promises"
        )
    flat = np.frombuffer(data, kind, counts)
    if known.conversion is None:
        return np.array(flat.reshape(height_px, width_px, 3))
    shape = (height_px, width_px, known.channels)[: 2 if known.channels == 1 else 3]
    pixels = over_16_bits(flat.reshape(shape), known.bits)
    return np.asarray(cv2.cvtColor(pixels, known.conversion))
