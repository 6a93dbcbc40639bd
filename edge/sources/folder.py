"""A folder of images: a recording that behaves like a camera, at its own pace."""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path

import numpy as np

from edge.clock import utc_of
from edge.errors import FrameRejected
from edge.frames import Exposure, Gap, RawFrame, Shot, SourceEnded, SourceLost
from edge.settings.sources import FolderSettings
from edge.sources.bit_depth import over_16_bits
from edge.sources.image_files import (
    SUFFIXES,
    count_passed_over,
    is_image_name,
    printable,
    read_picture,
)

_log = logging.getLogger(__name__)


class FolderSource:
    """Images of one folder, sorted by name. Waits for its reader, so none is lost."""

    def __init__(self, settings: FolderSettings) -> None:
        self._settings = settings
        try:
            files = sorted(settings.path.iterdir())
        except OSError as error:
            raise SourceLost(
                f"{settings.path}: {error.strerror}; name a folder"
            ) from error
        found = [path for path in files if is_image_name(path)]
        if passed_over := count_passed_over(files):
            _log.warning(
                "folder=%s passed_over=%d kinds=%s",
                printable(settings.path),
                passed_over.total(),
                dict(passed_over),
            )
        if not found:
            raise SourceLost(
                f"{settings.path}: holds no image; expected files ending in "
                f"{', '.join(sorted(SUFFIXES))}"
            )
        self._files = found
        self._next = 0
        self._due_s = time.monotonic()

    @property
    def is_live(self) -> bool:
        """A recording waits for its reader."""
        return False

    def read(self, timeout_s: float) -> Exposure | Gap | None:
        """Return the next image when its time has come; see `Source.read`."""
        if self._next >= len(self._files) and not self._settings.is_repeated:
            raise SourceEnded(
                f"{self._settings.path}: all {len(self._files)} images read"
            )
        wait_s = self._due_s - time.monotonic()
        if wait_s > timeout_s:
            time.sleep(timeout_s)
            return None
        if wait_s > 0:
            time.sleep(wait_s)
        path = self._files[self._next % len(self._files)]
        now_ns = time.monotonic_ns()
        shot = Shot(
            sequence=self._next,
            monotonic_ns=now_ns,
            utc=utc_of(now_ns),
            source_id=f"folder:{printable(path.relative_to(self._settings.path.parent))}",
            pixel_size_um=self._settings.pixel_size_um,
        )
        self._next += 1
        if self._settings.rate_hz > 0:
            self._due_s = (
                max(self._due_s, time.monotonic() - 1) + 1 / self._settings.rate_hz
            )
        return Exposure(shot, partial(_develop, path, shot, self._settings))

    def close(self) -> None:
        """Nothing to release."""


def _develop(path: Path, shot: Shot, settings: FolderSettings) -> RawFrame:
    """Decode an image; counts of `bits` bits are spread over 16."""
    picture = read_picture(path, settings.max_megapixels)
    counts, bits = picture.pixels, settings.bits
    if counts.dtype != np.uint8 and (largest := int(counts.max())) >= 2**bits:
        raise FrameRejected(
            f"{printable(path)}: holds a count of {largest}, expected at most "
            f"{2**bits - 1} with bits = {bits} of [source]; "
            f"{largest.bit_length()} bits are used here"
        )
    pixels = over_16_bits(counts, bits)
    return RawFrame(shot, pixels, picture.notes, filler_bytes=picture.filler_bytes)
