"""Other programs' readers of OME-Zarr; each returns the frames of one file.

Frames are (T, H, W, 3), uint8 or uint16, RGB.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge.frames import Counts


def by_zarr(path: Path) -> Counts:
    """Read with zarr-python."""
    zarr = pytest.importorskip("zarr")
    return np.moveaxis(np.asarray(zarr.open_group(path, mode="r")["0"]), 1, -1)


def by_tensorstore(path: Path) -> Counts:
    """Read with TensorStore."""
    tensorstore = pytest.importorskip("tensorstore")
    store = {"driver": "file", "path": str(path / "0")}
    array = tensorstore.open({"driver": "zarr3", "kvstore": store}, read=True).result()
    return np.moveaxis(np.asarray(array.read().result()), 1, -1)
