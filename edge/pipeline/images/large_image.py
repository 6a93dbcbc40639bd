"""Examine an image of any size: one frame at a time, tile by tile where it is large.

A camera's frame is examined at once. A scan is larger than any frame, and holds more
cells than a row of the ledger may say; memory is bounded by the tile, not by the scan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import msgspec
import numpy as np

from edge.frames import Counts, Exposure, RawFrame
from edge.pipeline.images.tiles import (
    OVERLAP_PX,
    TILE_PX,
    Tile,
    merge,
    profile_of,
    tiles_of,
)
from edge.pipeline.pipeline import ExaminedFrame, Pipeline
from edge.pipeline.pixel_size import (
    Estimate,
    FindCells,
    FrameScale,
    PixelSize,
    Scale,
)
from edge.pipeline.quality_gate import QualityGate
from edge.pipeline.stopwatch import Stopwatch
from edge.schema.results import Cell, FrameResult, Quality, cells_found
from edge.schema.row_limits import MAX_CELLS
from edge.stages.detection import locator_spec, reduction

# Larger images are examined in tiles: on the reduced frame, and where the scale is not
# known. Frames of cameras are smaller.
_MAX_REDUCED_PX = 1024
_MAX_FRAME_PX = 4096
_SAMPLE_PX = (1280, 960)  # windows in which the scale of a scan is read off the cells
_SAMPLED_AT = [  # shares of the way across and down; the middle first
    (x, y) for x in (0.5, 0.2, 0.8) for y in (0.5, 0.2, 0.8)
]
_AGREEING = 3  # of these windows, one after the other

OnTile = Callable[[int, int], None]  # tiles done, tiles in all


class Scan(Protocol):
    """An image of any size, of which windows can be read; (width, height) in pixels."""

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height."""

    def window(self, x0: int, y0: int, x1: int, y1: int) -> Counts:
        """Return a window (y1 - y0, x1 - x0, 3) RGB; x1 and y1 are exclusive."""

    def is_blank(self, x0: int, y0: int, x1: int, y1: int) -> bool:
        """Whether nothing lies in a window, so that it need not be examined."""


@dataclass(frozen=True, slots=True, eq=False)
class _Decoded:
    """An image in memory; a `Scan`."""

    pixels: Counts

    @property
    def size_px(self) -> tuple[int, int]:
        """See `Scan.size_px`."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[0])

    def window(self, x0: int, y0: int, x1: int, y1: int) -> Counts:
        """See `Scan.window`; nothing is copied."""
        return self.pixels[y0:y1, x0:x1]

    def is_blank(self, x0: int, y0: int, x1: int, y1: int) -> bool:
        """See `Scan.is_blank`; a frame is small enough to look everywhere."""
        return False


@dataclass(frozen=True, slots=True)
class _TileScale:
    """The scale of an image, the same for each of its tiles; a `FrameScale`."""

    known: PixelSize
    image: FrameScale

    def of(
        self,
        source_um: float | None,
        estimate: Estimate,
        sequence: int | None = None,
    ) -> PixelSize:
        """See `FrameScale.of`."""
        return self.known

    def check(
        self,
        told: PixelSize,
        cells: FindCells,
        estimate: Estimate,
        sequence: int | None = None,
    ) -> PixelSize:
        """See `FrameScale.check`; the cells of all tiles are pooled."""
        return self.image.check(told, cells, estimate, sequence)


@dataclass(frozen=True, slots=True, eq=False)
class _ExaminedTile:
    """A tile, and its result before and after the quality gate."""

    tile: Tile
    found: FrameResult
    judged: FrameResult


def examine_image(
    pipeline: Pipeline, exposure: Exposure, on_tile: OnTile = lambda done, of: None
) -> ExaminedFrame:
    """Examine an image, and let the quality gate judge it or each of its tiles.

    Parameters
    ----------
    pipeline
        What examines it. Its scale is asked once.
    exposure
        The image, not decoded yet.
    on_tile
        Told how many tiles are done, where there are several.

    Raises
    ------
    FrameRejected, ProfileMismatch, EngineFailed
        As `Pipeline.examine` does.
    """
    stage = Stopwatch()
    with stage("develop"):
        raw = pipeline.develop(exposure)
    examined = None
    if not _is_large(pipeline, raw):
        examined = pipeline.examine(_decoded(raw))
        if pipeline.locator is not None:
            judged = QualityGate().judge(examined.result)
            examined = replace(examined, result=judged)
    if examined is None or cells_found(examined.result) > MAX_CELLS:
        examined = _examine_tiles(pipeline, raw, _Decoded(raw.pixels), on_tile)
    spent_ms = {**examined.result.timings_ms, **stage.spent_ms}
    result = msgspec.structs.replace(examined.result, timings_ms=spent_ms)
    return replace(examined, result=result)


def examine_scan(
    pipeline: Pipeline, overview: RawFrame, scan: Scan, on_tile: OnTile
) -> ExaminedFrame:
    """Examine an image that is never decoded at once, and let the gate judge its tiles.

    Parameters
    ----------
    pipeline
        What examines it; with a locator.
    overview
        A small copy for people to look at, and what is known of the image.
    scan
        The image.
    on_tile
        Told how many tiles are done.

    Raises
    ------
    FrameRejected, ProfileMismatch, EngineFailed
        As `Pipeline.examine` does.
    """
    pipeline.profile.check(*scan.size_px, overview.shot.camera)
    return _examine_tiles(pipeline, overview, scan, on_tile)


def _decoded(raw: RawFrame) -> Exposure:
    return Exposure(raw.shot, lambda: raw)


def _is_large(pipeline: Pipeline, raw: RawFrame) -> bool:
    if pipeline.locator is None:
        return False
    known = pipeline.scale.of(raw.shot.pixel_size_um, lambda: None)
    if known.um is None:
        return max(raw.size_px) > _MAX_FRAME_PX
    return max(raw.size_px) * _factor(pipeline, known) > _MAX_REDUCED_PX


def _factor(pipeline: Pipeline, scale: PixelSize) -> float:
    """Return the size of the reduced frame over that of the image, at most 1."""
    if pipeline.locator is None or scale.um is None:
        return 1.0
    return reduction(scale.um, locator_spec(pipeline.locator))


def _examine_tiles(
    pipeline: Pipeline, raw: RawFrame, scan: Scan, on_tile: OnTile
) -> ExaminedFrame:
    """Examine the tiles of `scan`; `raw` stands for it in the result."""
    scale = _scale_of(pipeline, raw, scan)
    factor = _factor(pipeline, scale)
    every = tiles_of(scan.size_px, round(TILE_PX / factor), round(OVERLAP_PX / factor))
    tiles = [tile for tile in every if not scan.is_blank(*tile.corners)] or every[:1]
    examined = []
    for number, tile in enumerate(tiles):
        on_tile(number, len(tiles))
        examined.append(_examine_tile(pipeline, raw, scan, tile, scale))
    on_tile(len(tiles), len(tiles))
    cells = merge([(e.tile, e.judged.cells) for e in examined], scan.size_px, factor)
    return ExaminedFrame(raw, _joined(examined, cells, scan.size_px), None, scale)


def _examine_tile(
    pipeline: Pipeline, raw: RawFrame, scan: Scan, tile: Tile, scale: PixelSize
) -> _ExaminedTile:
    own = replace(
        pipeline,
        profile=profile_of(tile, pipeline.profile, scan.size_px),
        scale=_TileScale(scale, pipeline.scale),
    )
    part = replace(raw, pixels=scan.window(*tile.corners))
    found = own.examine(_decoded(part)).result
    return _ExaminedTile(tile, found, QualityGate().judge(found))


def _scale_of(pipeline: Pipeline, raw: RawFrame, scan: Scan) -> PixelSize:
    """Return the scale of an image: told, or read off the cells of some windows."""
    told = pipeline.scale.of(raw.shot.pixel_size_um, lambda: None)
    if told.um is not None:
        return told
    settling = Scale(None, agreeing=_AGREEING)
    found = told
    for window in _sample_windows(scan.size_px):
        if scan.is_blank(*window.corners):
            continue
        part = replace(raw, pixels=scan.window(*window.corners))
        found = settling.of(None, partial(pipeline.estimate_scale, part))
        if found.um is not None and found.doubt is None:
            break
    return found


def _sample_windows(frame_px: tuple[int, int]) -> Iterator[Tile]:
    """Yield windows of the size of a frame, spread over an image."""
    width, height = (min(p, q) for p, q in zip(frame_px, _SAMPLE_PX, strict=True))
    for across, down in _SAMPLED_AT:
        x = round(across * (frame_px[0] - width))
        y = round(down * (frame_px[1] - height))
        yield Tile(x, y, x + width, y + height)


def _joined(
    examined: Sequence[_ExaminedTile], cells: tuple[Cell, ...], size_px: tuple[int, int]
) -> FrameResult:
    """Return one result for all tiles; it is rejected only where all tiles are."""
    judged = [one.judged for one in examined]
    reason = _reason([result.reason for result in judged if not _is_empty(result)])
    status = "ok" if reason is None else "degraded"
    if all(result.status == "rejected" for result in judged):
        status = "rejected"
        reason = reason or judged[0].reason
    spent: Counter[str] = Counter()
    for result in judged:
        spent.update(result.timings_ms)
    return msgspec.structs.replace(
        judged[0],
        status=status,
        reason=reason,
        fault=judged[0].fault if status == "rejected" else None,
        width_px=size_px[0],
        height_px=size_px[1],
        quality=_typical([one.found for one in examined if one.found.quality]),
        colours=None,
        cells=cells,
        counts=Counter(cell.label for cell in cells),
        timings_ms={stage: round(ms, 3) for stage, ms in spent.items()},
    )


def _is_empty(result: FrameResult) -> bool:
    """Whether no cell lies on a tile, which is no fault of a scan."""
    return result.fault == "empty"


def _reason(reasons: Sequence[str | None]) -> str | None:
    """Return what speaks against some tiles, each kind of doubt once."""
    first: dict[str, str] = {}
    tiles: Counter[str] = Counter()
    for text in (text for reason in reasons if reason for text in reason.split("; ")):
        kind = text.split(":")[0]
        first.setdefault(kind, text)
        tiles[kind] += 1
    return (
        "; ".join(
            f"{first[kind]} (in {tiles[kind]} of {len(reasons)} tiles)"
            for kind in first
        )
        or None
    )


def _typical(results: Sequence[FrameResult]) -> Quality | None:
    """Return the median of each figure over tiles on which cells lie."""
    seen = [r.quality for r in results if r.quality is not None and r.cells]
    if not seen:
        return results[0].quality if results else None
    figures = {
        name: float(np.median(values))
        for name in ("focus", "saturated", "brightness", "motion", "texture", "covered")
        if (values := [v for q in seen if (v := getattr(q, name)) is not None])
    }
    background = np.median([q.background for q in seen], axis=0).round(1).tolist()
    return msgspec.structs.replace(seen[0], **figures, background=tuple(background))
