"""Examine image files one by one, each at its own scale."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2

from edge.clock import utc_of
from edge.errors import ConfigurationInvalid, HemascopeError
from edge.frames import Exposure, RawFrame, Shot
from edge.pipeline.images.image_lines import ErrorLine, ImageLine, image_line
from edge.pipeline.images.large_image import OnTile, examine_image, examine_scan
from edge.pipeline.pipeline import ExaminedFrame, Pipeline
from edge.pipeline.pixel_size import Scale
from edge.sources.decoding.decoded_image import MAX_MEGAPIXELS
from edge.sources.image_files import (
    count_passed_over,
    is_image_name,
    printable,
    read_picture,
)
from edge.sources.whole_slide import open_whole_slide


class ImagesFailed(HemascopeError):
    """Some of the images could not be examined; the others were."""


@dataclass(frozen=True, slots=True, eq=False)
class Classified:
    """One file with its examined frame, or with the error that came instead."""

    path: Path
    examined: ExaminedFrame | None
    error: Exception | None

    def line(self) -> ImageLine | ErrorLine:
        """Return the JSON line of this file."""
        if self.examined is None:
            return ErrorLine(printable(self.path), str(self.error))
        return image_line(printable(self.path), self.examined)


def find_images(paths: Iterable[Path], leave_out: Path | None = None) -> list[Path]:
    """Files as they are named, and the images of folders by name.

    Files in the folder `leave_out`, such as our own pictures, are passed over.

    Raises
    ------
    ConfigurationInvalid
        A path does not exist, or a folder holds no image.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(
                p
                for p in path.rglob("*")
                if is_image_name(p) and not _lies_in(p, leave_out)
            )
            if not inside:
                raise ConfigurationInvalid(
                    f"{path}: holds no image; name another folder"
                )
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise ConfigurationInvalid(f"{path}: does not exist; check the name")
    return found


def passed_over(folders: Iterable[Path], leave_out: Path | None = None) -> str | None:
    """Say how many files of folders are no images to us, by kind; None for none."""
    kinds = count_passed_over(
        path
        for folder in folders
        if folder.is_dir()
        for path in folder.rglob("*")
        if path.is_file() and not _lies_in(path, leave_out)
    )
    if not kinds:
        return None
    listed = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
    return f"{kinds.total()} files are passed over, no images to us: {listed}"


def _lies_in(path: Path, folder: Path | None) -> bool:
    return folder is not None and path.resolve().is_relative_to(folder.resolve())


def classify(
    paths: Iterable[Path],
    pipeline: Pipeline,
    pixel_size_um: float | None,
    on_tile: OnTile = lambda done, of: None,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> Iterator[Classified]:
    """Examine image files one by one; where no scale is told, each has its own.

    A file that cannot be examined, or has more pixels, is reported in its place; the
    others go on. `on_tile` is told how far the work on a large image is.
    """
    for number, path in enumerate(paths):
        scale = Scale(pipeline.profile.record.pixel_size_um, agreeing=1)
        own = replace(pipeline, scale=scale)
        try:
            shot = _shot(path, number, pixel_size_um)
            examined = _examine(own, path, shot, on_tile, max_megapixels)
        except (HemascopeError, cv2.error) as error:
            yield Classified(path, None, error)
        else:
            yield Classified(path, examined, None)


def _examine(
    pipeline: Pipeline, path: Path, shot: Shot, on_tile: OnTile, max_megapixels: float
) -> ExaminedFrame:
    """Examine a file; a whole slide window by window, whatever its size."""
    with open_whole_slide(path) as slide:
        if slide is not None and pipeline.locator is not None:
            um = shot.pixel_size_um or slide.pixel_size_um
            overview = RawFrame(replace(shot, pixel_size_um=um), slide.overview)
            return examine_scan(pipeline, overview, slide, on_tile)
    develop = partial(_develop, path, shot, max_megapixels)
    return examine_image(pipeline, Exposure(shot, develop), on_tile)


def _shot(path: Path, number: int, pixel_size_um: float | None) -> Shot:
    now_ns = time.monotonic_ns()
    name = printable(path)
    return Shot(number, now_ns, utc_of(now_ns), name, pixel_size_um=pixel_size_um)


def _develop(path: Path, shot: Shot, max_megapixels: float) -> RawFrame:
    picture = read_picture(path, max_megapixels)
    return RawFrame(
        shot, picture.pixels, picture.notes, filler_bytes=picture.filler_bytes
    )
