"""TIFF: its first picture, put together from the planes that its metadata name."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO
from xml.etree import ElementTree as ET

import cv2
import numpy as np
import tifffile

from edge.errors import FrameRejected
from edge.frames import Counts
from edge.sources.decoding.decoded_image import (
    DecodedImage,
    refuse_large,
    refuse_transparent,
    rgb_of,
)

_UNCOMPRESSED = 1
# libtiff, inside OpenCV, decodes no more than the header announces. zlib alone would
# unpack a strip of one megabyte to a gigabyte.
_BY_LIBTIFF = {5: "LZW", 8: "Deflate", 32946: "Deflate", 32773: "PackBits"}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE = 0, 1, 2, 3
# Channels that a picture of each kind of colour may have.
_SAMPLES = {
    _WHITE_IS_ZERO: (1, 2),
    _BLACK_IS_ZERO: (1, 2),
    _RGB: (3, 4),
    _PALETTE: (1,),
}
_UNSIGNED, _FLOAT = 1, 3
_UM_PER_OME_UNIT = {"µm": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}
_MOST_PAGES = 10_000  # a chain of pages that is longer is not followed
_CHANNELS = {"red": 0, "r": 0, "green": 1, "g": 1, "blue": 2, "b": 2}
BROKEN = (  # what tifffile raises on a damaged file
    tifffile.TiffFileError, ValueError, OSError, KeyError, IndexError, TypeError,
    AttributeError, RuntimeError, struct.error, zlib.error, ET.ParseError, MemoryError,
)  # fmt: skip


def decode_tiff(stream: BinaryIO, name: str, max_megapixels: float) -> DecodedImage:
    """Decode the first picture of a TIFF, OME-TIFF or BigTIFF to (H, W, 3) RGB.

    Raises
    ------
    FrameRejected
        It is damaged, too large, or of a kind that is not read; says which.
    """
    try:
        # Named, as a file that was opened by its handle has a number for a name.
        with tifffile.TiffFile(stream, name=name) as file:
            return _first_picture(file, stream, name, max_megapixels)
    except BROKEN as error:
        raise FrameRejected(
            f"{name}: the TIFF is damaged or cut short ({error}); copy it again"
        ) from error


def _first_picture(
    file: tifffile.TiffFile, stream: BinaryIO, name: str, max_megapixels: float
) -> DecodedImage:
    """Decode the first page, or the three pages that metadata name as its colours."""
    page = _page(file, 0)
    refuse_large(name, page.imagewidth, page.imagelength, max_megapixels)
    pages = _full_pages(file)
    planes = _colour_planes(file, page, name)
    for index in planes:
        _refuse_kind(_page(file, index), name)
        _refuse_cut(_page(file, index), file.filehandle.size, name)
    decoded = [_decode_page(_page(file, index), stream, name) for index in planes]
    pixels: Counts = decoded[0]
    if len(planes) > 1:  # each plane is grey: three equal channels
        pixels = cv2.merge([plane[..., 0].copy() for plane in decoded])
    notes = () if pages <= len(planes) else (_not_read(planes, pages),)
    orientation = page.tags.get("Orientation")
    return DecodedImage(
        pixels, notes, orientation=1 if orientation is None else int(orientation.value)
    )


def _not_read(planes: tuple[int, ...], pages: int) -> str:
    read = ", ".join(str(index + 1) for index in planes)
    which = (
        f"page {read} of {pages} was"
        if len(planes) == 1
        else (f"pages {read} of {pages} were")
    )
    return f"{which} read; save the others as files of their own"


def _page(file: tifffile.TiffFile, index: int) -> tifffile.TiffPage:
    page = file.pages.get(index, aspage=True)
    if not isinstance(page, tifffile.TiffPage):
        raise tifffile.TiffFileError(f"page {index + 1} has no tags of its own")
    return page


def _full_pages(file: tifffile.TiffFile) -> int:
    """Count pages that are no smaller copy of another page."""
    count = min(len(file.pages), _MOST_PAGES)
    return sum(not _page(file, index).is_reduced for index in range(count))


def _refuse_kind(page: tifffile.TiffPage, name: str) -> None:
    """Refuse a page whose numbers or colours are not counts of light.

    Raises
    ------
    FrameRejected
        Says what it holds, and what is read.
    """
    bits = page.bitspersample
    problem = None
    if page.sampleformat == _FLOAT:
        problem = "its pixels are floating point, which may be NaN"
    elif page.sampleformat != _UNSIGNED:
        problem = f"its pixels are of sample format {page.sampleformat}"
    elif bits not in (8, 16) and (bits, page.samplesperpixel) != (1, 1):
        problem = f"its pixels have {bits} bits per channel"
    elif page.samplesperpixel not in _SAMPLES.get(page.photometric, ()):
        problem = (
            f"its colours are of photometric kind {_named(page.photometric)} with "
            f"{page.samplesperpixel} channels"
        )
    elif page.compression not in (_UNCOMPRESSED, *_BY_LIBTIFF):
        problem = f"its compression is {_named(page.compression)}"
    elif page.compression != _UNCOMPRESSED and _is_planar(page):
        problem = "its colours lie in compressed planes"
    elif page.imagedepth != 1:
        problem = f"it is a volume of depth {page.imagedepth}"
    if problem is not None:
        raise FrameRejected(
            f"{name}: {problem}; expected grey, palette or RGB counts of 8 or 16 bits, "
            "uncompressed or by LZW, Deflate or PackBits; convert it"
        )


def _refuse_cut(page: tifffile.TiffPage, size_bytes: int, name: str) -> None:
    """Refuse a page whose strips or tiles are missing: they would be filled with 0.

    Raises
    ------
    FrameRejected
        A strip is empty, or lies behind the end of the file.
    """
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    is_cut = not segments or any(
        count <= 0 or offset <= 0 or offset + count > size_bytes
        for offset, count in segments
    )
    needed = page.imagewidth * page.imagelength * page.samplesperpixel
    needed = needed * page.bitspersample // 8
    has = sum(page.databytecounts)
    if is_cut or (page.compression == _UNCOMPRESSED and has < needed):
        raise FrameRejected(
            f"{name}: the TIFF is damaged or cut short: parts of its pixels are not in "
            "the file; copy it again"
        )


def _decode_page(page: tifffile.TiffPage, stream: BinaryIO, name: str) -> Counts:
    """Decode one page to (H, W, 3) uint8 or uint16 RGB."""
    if page.compression != _UNCOMPRESSED:
        return _decode_by_libtiff(page, stream, name)
    samples = page.asarray(maxworkers=1)
    if samples.dtype == bool:
        samples = samples.astype(np.uint8) * np.uint8(255)
    samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    if _is_planar(page):
        samples = np.moveaxis(samples, 0, 2)
    if page.photometric == _PALETTE:
        return _colours_of(page, samples)
    alpha = {2: 1, 4: 3}.get(page.samplesperpixel)
    if alpha is not None:
        refuse_transparent(samples[..., alpha], name)
        samples = samples[..., 0] if alpha == 1 else samples[..., :3]
    if page.photometric == _WHITE_IS_ZERO:
        samples = np.iinfo(samples.dtype).max - samples
    if samples.ndim == 2:
        return np.asarray(cv2.cvtColor(samples, cv2.COLOR_GRAY2RGB))
    return np.ascontiguousarray(samples)


def _colours_of(page: tifffile.TiffPage, indices: Counts) -> Counts:
    """Return the colours (H, W, 3) uint8 of indices (H, W) into the page's palette."""
    palette = np.asarray(page.colormap, np.uint16).T  # (2 ** bits, 3), 16 bits
    return np.asarray(palette >> 8, np.uint8)[indices]


def _decode_by_libtiff(page: tifffile.TiffPage, stream: BinaryIO, name: str) -> Counts:
    """Decode a compressed page by OpenCV to (H, W, 3) RGB."""
    stream.seek(0)
    data = np.frombuffer(stream.read(), np.uint8)
    try:
        found, pages = cv2.imdecodemulti(
            data, cv2.IMREAD_UNCHANGED, range=(page.index, page.index + 1)
        )
    except cv2.error as error:
        raise FrameRejected(f"{name}: cannot be decoded: {error.err}") from error
    expected = (page.imagelength, page.imagewidth)
    bits = np.uint16 if page.bitspersample == 16 else np.uint8
    if not found or pages[0].shape[:2] != expected or pages[0].dtype != bits:
        raise FrameRejected(f"{name}: the TIFF is damaged; copy it again")
    return rgb_of(pages[0], name)


def _colour_planes(
    file: tifffile.TiffFile, page: tifffile.TiffPage, name: str
) -> tuple[int, ...]:
    """Return the pages that hold red, green and blue; page 0 if it holds all.

    OME and ImageJ write a page for each channel. Other files do not say what their
    pages are: the first is read.

    Raises
    ------
    FrameRejected
        The channels are not red, green and blue.
    """
    if page.samplesperpixel > 1 or not (file.is_ome or file.is_imagej):
        return (0,)
    series = file.series[0]
    sizes = dict(zip(series.axes, series.shape, strict=True))
    channels = sizes.get("C", 1)
    if channels == 1:
        return (0,)
    order = _order_of(_channel_names(file), channels)
    if order is None:
        raise FrameRejected(
            f"{name}: has {channels} channels ({_channel_names(file)}), expected red, "
            "green and blue; save it as RGB"
        )
    after = series.axes[series.axes.index("C") + 1 :]
    stride = int(np.prod([sizes[axis] for axis in after if axis not in "YX"]))
    members = [series.pages[channel * stride] for channel in order]
    if any(member is None for member in members):
        raise tifffile.TiffFileError("fewer pages than its metadata name")
    return tuple(int(member.index) for member in members if member is not None)


def _order_of(names: list[str], channels: int) -> tuple[int, ...] | None:
    """Return where red, green and blue lie; None if these are not the channels."""
    if channels != 3:
        return None
    if not any(names):
        return (0, 1, 2)
    colours = [_CHANNELS.get(name.strip().casefold(), -1) for name in names]
    if sorted(colours) != [0, 1, 2]:
        return None
    return tuple(colours.index(colour) for colour in range(3))


def _channel_names(file: tifffile.TiffFile) -> list[str]:
    """Return the channels' names or colours; empty where the file does not tell."""
    if file.ome_metadata is not None:
        root = ET.fromstring(file.ome_metadata)  # noqa: S314
        return [
            _ome_name(node) for node in root.iter() if node.tag.endswith("}Channel")
        ]
    tables = (file.imagej_metadata or {}).get("LUTs")
    return [] if tables is None else [_colour_name(table) for table in tables]


def ome_pixel_size_um(metadata: str) -> float | None:
    """Return the width of a pixel that OME-XML tells, in µm; None without one.

    Raises
    ------
    ElementTree.ParseError, ValueError
        The XML is damaged, or the width is no number.
    """
    for node in ET.fromstring(metadata).iter():  # noqa: S314
        width = node.get("PhysicalSizeX")
        if node.tag.endswith("}Pixels") and width is not None:
            per_unit = _UM_PER_OME_UNIT.get(node.get("PhysicalSizeXUnit", "µm"))
            return None if per_unit is None else float(width) * per_unit
    return None


def _ome_name(channel: ET.Element) -> str:
    """Return the name of a channel of OME, or the name of its colour (signed RGBA)."""
    name = channel.get("Name", "")
    if name or "Color" not in channel.keys():  # noqa: SIM118 no mapping
        return name
    rgba = int(channel.get("Color", "0")) & 0xFFFFFFFF
    pure = {0xFF0000: "red", 0x00FF00: "green", 0x0000FF: "blue", 0xFFFFFF: ""}
    return pure.get(rgba >> 8, f"#{rgba >> 8:06x}")


def _colour_name(table: Counts) -> str:
    """Return the colour that a table (3, 256) of ImageJ ends with."""
    red, green, blue = np.asarray(table)[:, -1].tolist()
    last = red, green, blue
    pure = {(255, 0, 0): "red", (0, 255, 0): "green", (0, 0, 255): "blue"}
    return pure.get(last, "grey" if last == (255, 255, 255) else str(last))


def _is_planar(page: tifffile.TiffPage) -> bool:
    return page.samplesperpixel > 1 and page.planarconfig == 2


def _named(code: int) -> str:
    return getattr(code, "name", str(code))
