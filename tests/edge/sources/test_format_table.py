"""Format x depth x channels x layout: read as it was written, or refused and why.

Pictures are written by Pillow and tifffile; what OpenCV, simplejpeg and our own code
make of them must be what was written, or, where writing loses something, what Pillow
reads.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from edge.errors import FrameRejected
from edge.sources.image_files import decode_image, decode_picture

RNG = np.random.default_rng(4)
EIGHT = cv2.GaussianBlur(RNG.integers(0, 256, (40, 56, 3), np.uint8), (5, 5), 1.0)
DEEP = EIGHT.astype(np.uint16) * 257 - RNG.integers(0, 9, EIGHT.shape, np.uint16) * (
    EIGHT > 0
)
GREY, DEEP_GREY = EIGHT[..., 1], DEEP[..., 1]
OPAQUE = np.full(GREY.shape, 255, np.uint8)
RGBA = np.dstack([EIGHT, OPAQUE])
PLANES, DEEP_PLANES = np.moveaxis(EIGHT, 2, 0), np.moveaxis(DEEP, 2, 0)


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.dstack([grey] * 3)


def pillow(picture: np.ndarray | Image.Image, kind: str, **how: Any) -> bytes:
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def opencv(picture: np.ndarray, suffix: str, *how: int) -> bytes:
    if picture.ndim == 3:
        code = cv2.COLOR_RGBA2BGRA if picture.shape[2] == 4 else cv2.COLOR_RGB2BGR
        picture = cv2.cvtColor(picture, code)
    return bytes(cv2.imencode(suffix, picture, list(how))[1].tobytes())


def tiff(picture: np.ndarray, **how: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, picture, **how)
    return file.getvalue()


def palette() -> Image.Image:
    return Image.fromarray(EIGHT).quantize(16)


def bilevel() -> Image.Image:
    return Image.fromarray(GREY).convert("1")


BILEVEL = rgb(np.asarray(bilevel()).astype(np.uint8) * 255)
PALETTE = np.asarray(palette().convert("RGB"))
INVERTED = rgb(255 - GREY)
BIG_ENDIAN = {"byteorder": ">", "photometric": "rgb"}
OME_CYX = {"ome": True, "metadata": {"axes": "CYX"}}
LZW = cv2.IMWRITE_TIFF_COMPRESSION, 5
PACKBITS = cv2.IMWRITE_TIFF_COMPRESSION, 32773


def imagej(planes: np.ndarray, **how: Any) -> bytes:
    return tiff(planes, imagej=True, metadata={"axes": "CYX"}, **how)


def ome(planes: np.ndarray, *names: str, **how: Any) -> bytes:
    channels = {"Channel": {"Name": list(names)}} if names else {}
    return tiff(planes, ome=True, metadata={"axes": "CYX", **channels}, **how)


READ: dict[str, tuple[Callable[[], bytes], np.ndarray]] = {
    "PNG, 8 bits, RGB": (lambda: pillow(EIGHT, "PNG"), EIGHT),
    "PNG, 8 bits, RGB, interlaced": (lambda: pillow(EIGHT, "PNG", interlace=1), EIGHT),
    "PNG, 8 bits, RGBA, opaque": (lambda: pillow(RGBA, "PNG"), EIGHT),
    "PNG, 8 bits, grey": (lambda: pillow(GREY, "PNG"), rgb(GREY)),
    "PNG, 8 bits, grey and alpha": (
        lambda: pillow(Image.fromarray(GREY).convert("LA"), "PNG"),
        rgb(GREY),
    ),
    "PNG, 4 bits, palette": (lambda: pillow(palette(), "PNG", bits=4), PALETTE),
    "PNG, 1 bit": (lambda: pillow(bilevel(), "PNG"), BILEVEL),
    "PNG, 16 bits, grey": (lambda: pillow(DEEP_GREY, "PNG"), rgb(DEEP_GREY)),
    "PNG, 16 bits, RGB": (lambda: opencv(DEEP, ".png"), DEEP),
    "BMP, 8 bits, RGB": (lambda: pillow(EIGHT, "BMP"), EIGHT),
    "BMP, 8 bits, RGBA": (lambda: pillow(RGBA, "BMP"), EIGHT),
    "BMP, 8 bits, grey": (lambda: pillow(GREY, "BMP"), rgb(GREY)),
    "BMP, 8 bits, palette": (lambda: pillow(palette(), "BMP"), PALETTE),
    "BMP, 1 bit": (lambda: pillow(bilevel(), "BMP"), BILEVEL),
    "WebP, lossless": (lambda: pillow(EIGHT, "WEBP", lossless=True), EIGHT),
    "WebP, lossless, opaque RGBA": (lambda: pillow(RGBA, "WEBP", lossless=True), EIGHT),
    "JPEG 2000, 8 bits, RGB": (lambda: pillow(EIGHT, "JPEG2000"), EIGHT),
    "JPEG 2000, 8 bits, grey": (lambda: pillow(GREY, "JPEG2000"), rgb(GREY)),
    "JPEG 2000, 16 bits, grey": (lambda: pillow(DEEP_GREY, "JPEG2000"), rgb(DEEP_GREY)),
    "TIFF, 8 bits, RGB": (lambda: tiff(EIGHT, photometric="rgb"), EIGHT),
    "TIFF, 8 bits, RGBA, opaque": (lambda: pillow(RGBA, "TIFF"), EIGHT),
    "TIFF, 8 bits, grey": (lambda: tiff(GREY), rgb(GREY)),
    "TIFF, 8 bits, grey and alpha": (
        lambda: pillow(Image.fromarray(GREY).convert("LA"), "TIFF"),
        rgb(GREY),
    ),
    "TIFF, 8 bits, white is zero": (lambda: tiff(GREY, photometric=0), INVERTED),
    "TIFF, 8 bits, palette": (lambda: pillow(palette(), "TIFF"), PALETTE),
    "TIFF, 1 bit": (lambda: pillow(bilevel(), "TIFF"), BILEVEL),
    "TIFF, 16 bits, RGB": (lambda: tiff(DEEP, photometric="rgb"), DEEP),
    "TIFF, 16 bits, RGB, of OpenCV": (lambda: opencv(DEEP, ".tif"), DEEP),
    "TIFF, 16 bits, grey": (lambda: tiff(DEEP_GREY), rgb(DEEP_GREY)),
    "TIFF, 16 bits, big-endian": (lambda: tiff(DEEP, **BIG_ENDIAN), DEEP),
    "TIFF, 8 bits, big-endian": (lambda: tiff(EIGHT, **BIG_ENDIAN), EIGHT),
    "TIFF, BigTIFF": (lambda: tiff(DEEP, bigtiff=True, photometric="rgb"), DEEP),
    "TIFF, strips": (lambda: tiff(EIGHT, rowsperstrip=7, photometric="rgb"), EIGHT),
    "TIFF, tiles": (lambda: tiff(EIGHT, tile=(16, 32), photometric="rgb"), EIGHT),
    "TIFF, tiles, 16 bits": (lambda: tiff(DEEP, tile=(16, 16), photometric=2), DEEP),
    "TIFF, planar": (
        lambda: tiff(PLANES, photometric="rgb", planarconfig="separate"),
        EIGHT,
    ),
    "TIFF, planar, 16 bits, tiles": (
        lambda: tiff(DEEP_PLANES, photometric=2, planarconfig=2, tile=(16, 16)),
        DEEP,
    ),
    "TIFF, LZW, 8 bits, RGB": (lambda: opencv(EIGHT, ".tif", *LZW), EIGHT),
    "TIFF, LZW, 16 bits, RGB": (lambda: opencv(DEEP, ".tif", *LZW), DEEP),
    "TIFF, LZW, 16 bits, grey": (
        lambda: opencv(DEEP_GREY, ".tif", *LZW),
        rgb(DEEP_GREY),
    ),
    "TIFF, LZW, of Pillow": (
        lambda: pillow(EIGHT, "TIFF", compression="tiff_lzw"),
        EIGHT,
    ),
    "TIFF, LZW, RGBA": (lambda: pillow(RGBA, "TIFF", compression="tiff_lzw"), EIGHT),
    "TIFF, LZW, palette": (
        lambda: pillow(palette(), "TIFF", compression="tiff_lzw"),
        PALETTE,
    ),
    "TIFF, LZW, 1 bit": (
        lambda: pillow(bilevel(), "TIFF", compression="tiff_lzw"),
        BILEVEL,
    ),
    "TIFF, PackBits": (lambda: opencv(EIGHT, ".tif", *PACKBITS), EIGHT),
    "TIFF, Deflate": (
        lambda: tiff(EIGHT, compression="zlib", photometric="rgb"),
        EIGHT,
    ),
    "TIFF, Deflate, 16 bits, tiles, predictor": (
        lambda: tiff(
            DEEP, compression="zlib", predictor=2, tile=(16, 16), photometric="rgb"
        ),
        DEEP,
    ),
    "TIFF, Deflate, 16 bits, big-endian": (
        lambda: tiff(DEEP, compression="zlib", **BIG_ENDIAN),
        DEEP,
    ),
    "TIFF, Deflate, white is zero": (
        lambda: tiff(GREY, compression="zlib", photometric=0),
        INVERTED,
    ),
    "ImageJ, three channels": (lambda: imagej(PLANES), EIGHT),
    "ImageJ, three channels, 16 bits": (lambda: imagej(DEEP_PLANES), DEEP),
    "OME-TIFF, RGB": (lambda: tiff(EIGHT, ome=True, photometric="rgb"), EIGHT),
    "OME-TIFF, three channels": (lambda: ome(PLANES), EIGHT),
    "OME-TIFF, three channels, 16 bits": (lambda: ome(DEEP_PLANES), DEEP),
    "OME-TIFF, three channels, Deflate": (
        lambda: ome(DEEP_PLANES, compression="zlib"),
        DEEP,
    ),
    "OME-TIFF, channels named blue, green, red": (
        lambda: ome(PLANES[::-1], "Blue", "Green", "Red"),
        EIGHT,
    ),
}

REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "PNG, transparent": (
        lambda: pillow(np.dstack([EIGHT, GREY]), "PNG"),
        "transparent",
    ),
    "WebP, transparent": (
        lambda: pillow(np.dstack([EIGHT, GREY]), "WEBP", lossless=True),
        "transparent",
    ),
    "TIFF, transparent": (
        lambda: pillow(np.dstack([EIGHT, GREY]), "TIFF"),
        "transparent",
    ),
    "JPEG, CMYK": (
        lambda: pillow(Image.fromarray(EIGHT).convert("CMYK"), "JPEG"),
        "CMYK",
    ),
    "TIFF, CMYK": (
        lambda: pillow(Image.fromarray(EIGHT).convert("CMYK"), "TIFF"),
        "SEPARATED",
    ),
    "TIFF, L*a*b*": (
        lambda: pillow(Image.fromarray(EIGHT).convert("LAB"), "TIFF"),
        "CIELAB",
    ),
    "TIFF, float": (lambda: tiff(GREY.astype(np.float32)), "floating point"),
    "TIFF, half float": (lambda: tiff(GREY.astype(np.float16)), "floating point"),
    "TIFF, signed": (lambda: tiff(GREY.astype(np.int16)), "sample format 2"),
    "TIFF, 32 bits": (lambda: tiff(GREY.astype(np.uint32)), "32 bits"),
    "TIFF, 12 bits": (
        lambda: twelve_bits(),
        "12 bits",
    ),
    "TIFF, JPEG inside": (
        lambda: pillow(EIGHT, "TIFF", compression="jpeg"),
        "expected grey, palette or RGB",
    ),
    "TIFF, planar, compressed": (
        lambda: tiff(PLANES, photometric=2, planarconfig=2, compression="zlib"),
        "compressed planes",
    ),
    "ImageJ, two channels": (lambda: imagej(PLANES[:2]), "2 channels"),
    "OME-TIFF, fluorescence": (
        lambda: ome(PLANES, "DAPI", "FITC", "Cy5"),
        "DAPI",
    ),
    "GIF": (lambda: pillow(palette(), "GIF"), "not an image"),
    "PPM": (lambda: pillow(EIGHT, "PPM"), "not an image"),
}


def twelve_bits() -> bytes:
    """A TIFF whose header says 12 bits: tifffile writes these only by a codec."""
    data = bytearray(tiff(DEEP_GREY))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        at = file.pages.first.tags["BitsPerSample"].valueoffset
    data[at : at + 2] = (12).to_bytes(2, "little")
    return bytes(data)


@pytest.mark.parametrize("kind", READ)
def test_a_picture_is_read_as_it_was_written(kind: str) -> None:
    write, expected = READ[kind]
    data = write()
    unused = np.full(expected.shape, 777, np.uint16)  # what a decoder may be given
    del unused

    picture = decode_picture(data, "x")

    assert picture.pixels.dtype == expected.dtype
    assert picture.pixels.flags.c_contiguous
    np.testing.assert_array_equal(picture.pixels, expected)
    assert picture.notes == ()


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_read_is_refused_with_its_reason(kind: str) -> None:
    write, reason = REFUSED[kind]

    with pytest.raises(FrameRejected, match=reason):
        decode_image(write(), "x")


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("grey", [False, True])
def test_a_jpeg_is_read_as_by_pillow(
    subsampling: str, progressive: bool, grey: bool
) -> None:
    picture = GREY if grey else EIGHT
    data = pillow(picture, "JPEG", subsampling=subsampling, progressive=progressive)
    second = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    np.testing.assert_array_equal(decode_image(data, "x"), second)


def test_a_webp_is_read_as_by_pillow() -> None:
    data = pillow(EIGHT, "WEBP", quality=80)
    second = np.asarray(Image.open(io.BytesIO(data)))

    np.testing.assert_array_equal(decode_image(data, "x"), second)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    how = {"lossless": True} if kind == "WEBP" else {}
    data = pillow(EIGHT, kind, exif=exif, **how)
    opened = Image.open(io.BytesIO(data))
    from PIL import ImageOps

    upright = np.asarray(ImageOps.exif_transpose(opened))

    picture = decode_picture(data, "x")

    np.testing.assert_array_equal(picture.pixels, upright)
    assert picture.orientation == orientation


def test_of_several_pages_the_first_is_read_and_that_is_said() -> None:
    empty = np.full_like(EIGHT, 235)
    data = tiff(np.stack([empty, EIGHT, EIGHT]), photometric="rgb")

    picture = decode_picture(data, "x")

    np.testing.assert_array_equal(picture.pixels, empty)
    assert picture.notes[0].startswith("page 1 of 3 was read")


def test_of_a_stack_of_channels_the_first_is_read_and_that_is_said() -> None:
    stack = np.stack([PLANES, PLANES[::-1]])
    data = tiff(stack, imagej=True, metadata={"axes": "ZCYX"})

    picture = decode_picture(data, "x")

    np.testing.assert_array_equal(picture.pixels, EIGHT)
    assert picture.notes[0].startswith("pages 1, 2, 3 of 6 were read")


def test_of_an_animation_the_first_picture_is_read_and_that_is_said() -> None:
    first, second = Image.fromarray(EIGHT), Image.fromarray(EIGHT[::-1].copy())
    data = pillow(first, "WEBP", save_all=True, append_images=[second], lossless=True)

    picture = decode_picture(data, "x")

    np.testing.assert_array_equal(picture.pixels, EIGHT)
    assert picture.notes[0].startswith("picture 1 of 2 was read")


def test_smaller_copies_of_the_picture_are_no_pages() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(EIGHT, photometric="rgb")
        writer.write(EIGHT[::2, ::2], photometric="rgb", subfiletype=1)

    assert decode_picture(file.getvalue(), "x").notes == ()
