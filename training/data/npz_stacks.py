"""Images that lie in the arrays of an npz, one stack per split."""

from __future__ import annotations

import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import FrameRejected
from edge.sources.image_files import printable


@lru_cache(maxsize=2)
def read_stack(path: Path, split: str) -> NDArray[np.uint8]:
    """Read the images of one split of an npz, (N, H, W, 3) RGB.

    Raises
    ------
    FrameRejected
        The file is damaged or holds no such images.
    """
    name = f"{split}_images"
    images = read_array(path, name)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise FrameRejected(
            f"{printable(path)}: {name} is {images.shape} {images.dtype}, expected "
            "(N, H, W, 3) uint8"
        )
    return images


def read_array(path: Path, name: str) -> NDArray[Any]:
    """Read one array of an npz.

    Raises
    ------
    FrameRejected
        The file is no npz, is damaged, or has no such array.
    """
    try:
        with zipfile.ZipFile(path) as file, file.open(f"{name}.npy") as member:
            return np.asarray(np.lib.format.read_array(member, allow_pickle=False))
    except KeyError as error:
        raise FrameRejected(f"{printable(path)}: has no array {name!r}") from error
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise FrameRejected(
            f"{printable(path)}: array {name!r} cannot be read: {error}; expected an "
            "npz, copy it again"
        ) from error
