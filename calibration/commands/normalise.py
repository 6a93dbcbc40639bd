"""The command `hemascope calibrate normalise`."""

from __future__ import annotations

from pathlib import Path

import click
import cv2
import numpy as np
from rich.progress import track

from calibration.choices import Method
from calibration.reference import plasma_colour
from calibration.stains import StainedPixels, gather, normalise
from edge.errors import ConfigurationInvalid
from edge.pipeline.images.classify_images import find_images
from edge.sources.image_files import read_image

_MAX_IMAGES = 40  # of a slide, for its statistics; more images change little


def normalise_images(
    images: tuple[Path, ...], method: Method, reference: Path, out: Path
) -> None:
    """Normalise the stain of images of one slide, and write them."""
    files = find_images(images, leave_out=out)
    ours, theirs = _slide(files), _slide(find_images([reference]))
    out.mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(track(files, description=method, transient=True)):
        after = normalise(_read(file), method, ours, theirs)
        bgr = cv2.cvtColor(after, cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(out / f"{number:04d}-{file.stem}.png"), bgr)
    click.echo(f"{len(files)} images: {out}")


def _slide(files: list[Path]) -> StainedPixels:
    """Pool the stained pixels of some images of a slide."""
    shown = [_read(file) for file in files[:: max(1, len(files) // _MAX_IMAGES)]]
    return gather(shown, np.median([plasma_colour(i) for i in shown], axis=0))


def _read(file: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Read an image (H, W, 3) uint8 RGB.

    Raises
    ------
    ConfigurationInvalid
        It has more than 8 bits.
    """
    image = read_image(file)
    if image.dtype != np.uint8:
        raise ConfigurationInvalid(
            f"{file}: has {image.dtype} counts, expected 8 bits; convert it first"
        )
    return image.astype(np.uint8)
