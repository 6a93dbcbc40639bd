"""Whole-slide images: a scan in tiles with smaller copies, read window by window.

Aperio's SVS, pyramids of OME-TIFF, and TIFF whose further pages are smaller copies. A
slide at 0.25 µm per pixel has 10^9 pixels and more, so it is never decoded at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile

from edge.bounded_files import open_regular
from edge.errors import FrameRejected
from edge.frames import Counts
from edge.sources.decoding.headers import is_tiff
from edge.sources.decoding.tiff import BROKEN, ome_pixel_size_um
from edge.sources.decoding.tiff_tiles import TiledPage, is_tiled_rgb

_SUFFIXES = frozenset({".svs", ".tif", ".tiff"})
_OVERVIEW_PX = 8192  # a smaller copy with a longer side is no overview
_APERIO_MPP = re.compile(r"MPP\s*=\s*([0-9.]+)")
_UM_PER_UNIT = {2: 25_400.0, 3: 10_000.0}  # inch, centimetre
_SENSIBLE_UM = (0.02, 2.0)
# A place is blank where the overview is nowhere darker than this share of its glass.
_GLASS = 0.93


class WholeSlide:
    """A scan of which windows can be read.

    `size_px` is its width and height, `pixel_size_um` what its metadata say, or None.
    """

    def __init__(self, file: tifffile.TiffFile, stream: BinaryIO, name: str) -> None:
        pages = _levels(file)
        self._page = TiledPage(pages[0], stream, name)
        self.size_px = self._page.size_px
        self.pixel_size_um = _pixel_size_um(file, pages[0])
        self.overview = _overview(pages, stream, name)
        green = self.overview[..., 1].astype(np.float32)
        self._is_stained = green < _GLASS * np.percentile(green, 95)

    def window(self, x0: int, y0: int, x1: int, y1: int) -> Counts:
        """Decode a window; see `TiledPage.window`."""
        return self._page.window(x0, y0, x1, y1)

    def is_blank(self, x0: int, y0: int, x1: int, y1: int) -> bool:
        """Whether the overview shows nothing but glass in a window."""
        high, wide = self._is_stained.shape
        across, down = wide / self.size_px[0], high / self.size_px[1]
        columns = slice(int(x0 * across), int(x1 * across) + 1)
        rows = slice(int(y0 * down), int(y1 * down) + 1)
        return not self._is_stained[rows, columns].any()


@contextmanager
def open_whole_slide(path: Path) -> Iterator[WholeSlide | None]:
    """Open a file as a whole slide; None where it is an image like others.

    Raises
    ------
    FrameRejected
        It is a whole slide, but damaged or of a kind that is not read.
    """
    name = os.fsencode(path).decode("utf-8", "backslashreplace")
    if path.suffix.lower() not in _SUFFIXES:
        yield None
        return
    try:
        stream = open_regular(path)
    except OSError:
        yield None  # said by who reads it as an image
        return
    with stream:
        start = stream.read(4)
        stream.seek(0)
        if not is_tiff(start):
            yield None
            return
        try:
            file = tifffile.TiffFile(stream, name=name)
            is_slide = len(_levels(file)) > 1
            slide = WholeSlide(file, stream, name) if is_slide else None
        except BROKEN as error:
            raise FrameRejected(
                f"{name}: the TIFF is damaged or cut short ({error}); copy it again"
            ) from error
        yield slide


def _levels(file: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """Return the page of the scan and those of its smaller copies, largest first."""
    first = file.pages.get(0, aspage=True)
    if not isinstance(first, tifffile.TiffPage) or not is_tiled_rgb(first):
        return []  # read at once, like any image
    levels = [level.keyframe for level in file.series[0].levels]
    if len(levels) == 1 and not file.is_ome:
        aspect = first.imagewidth / first.imagelength
        others = (file.pages.get(i, aspage=True) for i in range(1, len(file.pages)))
        levels += [
            page
            for page in others
            if isinstance(page, tifffile.TiffPage)
            and page.is_tiled
            and page.imagewidth < first.imagewidth
            and abs(page.imagewidth / page.imagelength / aspect - 1) < 0.05
        ]
    return [level for level in levels if isinstance(level, tifffile.TiffPage)]


def _overview(pages: list[tifffile.TiffPage], stream: BinaryIO, name: str) -> Counts:
    """Decode the smallest copy (h, w, 3) uint8 RGB.

    Raises
    ------
    FrameRejected
        It is not small.
    """
    page = TiledPage(pages[-1], stream, name)
    width, height = page.size_px
    if max(width, height) > _OVERVIEW_PX:
        raise FrameRejected(
            f"{name}: its smallest copy has {width}x{height} px, expected at most "
            f"{_OVERVIEW_PX}; write the pyramid down to a smaller one"
        )
    return page.window(0, 0, width, height)


def _pixel_size_um(file: tifffile.TiffFile, page: tifffile.TiffPage) -> float | None:
    """Return the size of a pixel by the scanner's metadata; None if it is not sensible.

    Aperio writes it into the description, OME into its XML, others as a resolution.
    """
    found = None
    aperio = _APERIO_MPP.search(page.description) if file.is_svs else None
    if aperio is not None:
        found = float(aperio[1])
    elif file.ome_metadata is not None:
        found = ome_pixel_size_um(file.ome_metadata)
    else:
        resolution, unit = page.tags.get("XResolution"), page.tags.get("ResolutionUnit")
        if resolution is not None and unit is not None and resolution.value[0]:
            per_unit = resolution.value[0] / max(resolution.value[1], 1)
            found = _UM_PER_UNIT.get(int(unit.value), 0.0) / per_unit
    is_sensible = found is not None and _SENSIBLE_UM[0] <= found <= _SENSIBLE_UM[1]
    return found if is_sensible else None
