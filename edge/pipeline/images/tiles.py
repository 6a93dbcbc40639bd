"""Cut a large image into overlapping tiles, and merge what was found on them.

A tile is examined like a frame. Neighbours overlap by more than a cell, so each cell
lies whole in at least one tile, and at a seam it is found more than once. Of boxes of
different tiles that cover the same place one is kept: the one that lies deepest in its
tile, where the locator saw most around it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.artifacts.profile import Profile
from edge.schema.results import Cell
from edge.stages.detection import suppress_overlaps

TILE_PX = 640  # side of a tile on the reduced frame, where red cells are 24 px wide
OVERLAP_PX = 96  # 30 µm: the largest white cells are narrower
_CUT_PX = (
    2  # a box so near to the border of its tile is cut by it, on the reduced frame
)
_SAME_CELL = 0.5  # intersection over union of two boxes of one cell


@dataclass(frozen=True, slots=True)
class Tile:
    """A window of an image: x0, y0, x1, y1 in its pixels, x1 and y1 exclusive."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """The window as it is asked for: x0, y0, x1, y1."""
        return self.x0, self.y0, self.x1, self.y1

    def box(self, cell: Cell) -> tuple[int, int, int, int]:
        """Return the box of a cell of this tile in pixels of the image."""
        x0, y0, x1, y1 = cell.box
        return x0 + self.x0, y0 + self.y0, x1 + self.x0, y1 + self.y0


def tiles_of(frame_px: tuple[int, int], side_px: int, overlap_px: int) -> list[Tile]:
    """Return tiles of one size that cover an image, row by row.

    Parameters
    ----------
    frame_px
        Width and height of the image.
    side_px
        Longest side of a tile.
    overlap_px
        Least overlap of neighbours; less than `side_px`.
    """
    width, height = (min(side_px, size) for size in frame_px)
    return [
        Tile(x, y, x + width, y + height)
        for y in _starts(frame_px[1], height, overlap_px)
        for x in _starts(frame_px[0], width, overlap_px)
    ]


def _starts(size: int, tile: int, overlap: int) -> list[int]:
    """Return where tiles begin along one axis; the last one ends with the image."""
    count = 1 + math.ceil(max(size - tile, 0) / max(tile - overlap, 1))
    return [int(start) for start in np.linspace(0, size - tile, count).round()]


def profile_of(tile: Tile, profile: Profile, frame_px: tuple[int, int]) -> Profile:
    """Return the profile of a frame for one tile of it: the light of that part."""
    width, height = tile.x1 - tile.x0, tile.y1 - tile.y0
    record = msgspec.structs.replace(profile.record, width_px=None, height_px=None)
    flat = profile.flat_field
    if flat is not None:
        across, down = flat.shape[1] / frame_px[0], flat.shape[0] / frame_px[1]
        # Centres of pixels map to centres, as in cv2.resize.
        shift = ((tile.x0 + 0.5) * across - 0.5, (tile.y0 + 0.5) * down - 0.5)
        to_grid = np.array([[across, 0, shift[0]], [0, down, shift[1]]])
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        flat = np.asarray(
            cv2.warpAffine(
                flat,
                to_grid,
                (width, height),
                flags=how,
                borderMode=cv2.BORDER_REPLICATE,
            ),
            np.float32,
        )
    return replace(profile, record=record, flat_field=flat)


def merge(
    found: list[tuple[Tile, tuple[Cell, ...]]],
    frame_px: tuple[int, int],
    reduction: float,
) -> tuple[Cell, ...]:
    """Return the cells of all tiles, each once, numbered, boxes in the image.

    Parameters
    ----------
    found
        Each tile with its cells, whose boxes are in pixels of the tile.
    frame_px
        Width and height of the image.
    reduction
        Size of the reduced frame over that of the image.
    """
    placed = [(tile, cell) for tile, cells in found for cell in cells]
    if not placed:
        return ()
    boxes = np.array([tile.box(cell) for tile, cell in placed], np.float32)
    tiles = np.array([(t.x0, t.y0, t.x1, t.y1) for t, _ in placed], np.float32)
    depth = _depths(boxes, tiles, frame_px)
    whole = np.flatnonzero(depth > _CUT_PX / reduction)
    kept = whole[_once(boxes[whole], tiles[whole], depth[whole])]
    return tuple(
        msgspec.structs.replace(
            placed[row][1], id=number, box=placed[row][0].box(placed[row][1])
        )
        for number, row in enumerate(kept.tolist())
    )


def _depths(
    boxes: NDArray[np.float32], tiles: NDArray[np.float32], frame_px: tuple[int, int]
) -> NDArray[np.float32]:
    """Return how far boxes (N, 4) lie from the seams of their tiles (N, 4), in pixels.

    A border of the image is no seam: nothing lies beyond it.
    """
    distance = np.hstack([boxes[:, :2] - tiles[:, :2], tiles[:, 2:] - boxes[:, 2:]])
    at_border = np.hstack([tiles[:, :2] == 0, tiles[:, 2:] == np.array(frame_px)])
    return np.asarray(np.where(at_border, np.inf, distance).min(axis=1))


def _once(
    boxes: NDArray[np.float32], tiles: NDArray[np.float32], depth: NDArray[np.float32]
) -> NDArray[np.intp]:
    """Return the rows of boxes (N, 4) to keep, of each cell the deepest, in order.

    Only boxes that reach into a second tile can stand for a cell that it found, too.
    """
    seams = np.unique(tiles, axis=0)
    covering = sum(
        (boxes[:, 2] > x0)
        & (boxes[:, 0] < x1)
        & (boxes[:, 3] > y0)
        & (boxes[:, 1] < y1)
        for x0, y0, x1, y1 in seams
    )
    shared = np.flatnonzero(np.asarray(covering) > 1)
    finite = np.minimum(depth[shared], np.float32(1e9))
    kept = shared[suppress_overlaps(boxes[shared], finite, _SAME_CELL)]
    return np.sort(np.concatenate([np.flatnonzero(np.asarray(covering) <= 1), kept]))
