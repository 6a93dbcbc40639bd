"""Measure the counting of a slide: the commands behind docs/differential.md.

`python -m export.benchmark.slide.counting COMMAND`, where COMMAND is `walk`, `limits`,
`slides`, `gate` or `picture`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import click
import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.pipeline.parts import Parts, read_parts
from edge.rendering.class_colours import legend
from edge.schema.results import Differential
from edge.settings.sources import SimulatedSettings
from export.benchmark.slide.interval_coverage import in_seeds, measure_coverage
from export.benchmark.slide.quality_gate import gate_laboratory, laboratories
from export.benchmark.slide.scan import SCAN, SlideScan, scan

# A coarser picture of a smaller slide, since a hundred slides are rendered.
_SMALL = msgspec.structs.replace(
    SCAN, width_px=480, height_px=300, pixel_size_um=0.28, slide_frames=3.5
)
_FULL = msgspec.structs.replace(
    SCAN, width_px=1920, height_px=1200, pixel_size_um=0.07, slide_frames=3.0
)


@click.group()
def counting_command() -> None:
    """Measure the differential and the quality gate."""
    cv2.setNumThreads(1)


@counting_command.command("walk")
@click.option("--seeds", default=5, show_default=True)
@click.option("--frames", default=600, show_default=True)
@click.option("--full", is_flag=True, help="1920x1200 px, as a camera has.")
def walk_command(seeds: int, frames: int, full: bool) -> None:
    """Scan simulated slides and compare what was counted with the truth."""
    parts = read_parts()
    for seed in range(1, seeds + 1):
        _show(
            [
                f"slide {seed}: "
                + "; ".join(_scan_lines(_settings(full, seed), parts, frames))
            ]
        )


@counting_command.command("limits")
@click.option("--runs", default=1000, show_default=True)
def limits_command(runs: int) -> None:
    """Count in how many runs of a counting model the limits hold the true shares."""
    for cells in (100, 400, 2000):
        for one in measure_coverage(runs, cells, known_from=500):
            percent = {k: f"{100 * n / one.runs:.1f} %" for k, n in one.held.items()}
            _show([f"{one.cells} cells; {one.what}: {percent}; width {one.width}"])


@counting_command.command("slides")
@click.option("--runs", default=100, show_default=True)
@click.option("--frames", default=20, show_default=True)
def slides_command(runs: int, frames: int) -> None:
    """Count on how many slides, scanned in part, the limits hold the true shares."""
    parts = read_parts()
    counted = []

    def one(seed: int) -> dict[str, bool]:
        found = scan(msgspec.structs.replace(_SMALL, seed=seed), parts, frames)
        total = sum(found.slide.values())
        counted.append(found.differential.total)
        held = {
            each.label: each.exact.low
            <= found.slide[each.label] / total
            <= each.exact.high
            for each in found.differential.classes
        }
        _show([f"slide {seed}: {found.differential.total} cells counted, held {held}"])
        return held

    held = in_seeds(runs, one)
    _show([f"{runs} slides, {np.mean(counted):.0f} cells counted of each: held {held}"])


@counting_command.command("gate")
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--degraded", default=100, show_default=True, help="Fields made bad.")
def gate_command(data: Path, degraded: int) -> None:
    """Run the gate on fields of each laboratory, as they are and degraded."""
    parts = read_parts()
    for name, paths in laboratories(data).items():
        for gated in gate_laboratory(name, paths, parts, degraded):
            limits = "learned" if gated.learned else "first"
            _show(
                [
                    f"{gated.laboratory} | {gated.condition} | {limits} | "
                    f"{gated.accepted} of {gated.frames} accepted | {gated.faults}"
                ]
            )


@counting_command.command("picture")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--seed", default=2, show_default=True)
@click.option("--frames", default=500, show_default=True)
def picture_command(path: Path, seed: int, frames: int) -> None:
    """Draw the mosaic of a scan with every counted cell."""
    found = scan(_settings(False, seed), read_parts(), frames)
    cv2.imwrite(str(path), draw_mosaic(found)[..., ::-1])


def draw_mosaic(found: SlideScan, scale: float = 1.5) -> NDArray[np.uint8]:
    """Draw the thumbnails of all frames in place, and a dot on every counted cell.

    Returns
    -------
    NDArray[np.uint8]
        (h, w, 3) RGB, the largest patch.
    """
    keys = found.counter.mosaic.key_frames
    patches = [place.patch for place, _ in keys]
    largest = max(set(patches), key=patches.count)
    keys = [(place, thumbnail) for place, thumbnail in keys if place.patch == largest]
    corners = np.array([(place.x_px, place.y_px) for place, _ in keys])
    low = corners.min(axis=0)
    canvas = _assemble([thumbnail for _, thumbnail in keys], corners - low)
    picture = cv2.resize(canvas, None, fx=scale, fy=scale)
    picture = np.asarray(cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB))
    _draw_cells(picture, found, largest, low, scale)
    return np.asarray(picture, np.uint8)


def _assemble(
    thumbnails: Sequence[NDArray[np.uint8]], corners: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Put thumbnails (h, w), grey, at their corners (N, 2), in pixels, on white."""
    height, width = thumbnails[0].shape
    right, bottom = np.ceil(corners.max(axis=0)).astype(int).tolist()
    canvas = np.full((bottom + height, right + width), 255, np.uint8)
    for thumbnail, corner in zip(thumbnails, corners, strict=True):
        x, y = np.rint(corner).astype(int)
        canvas[y : y + height, x : x + width] = thumbnail
    return canvas


def _draw_cells(
    picture: NDArray[np.uint8],
    found: SlideScan,
    patch: int,
    low: NDArray[np.float64],
    scale: float,
) -> None:
    """Draw a dot in the colour of its label on every counted cell of a patch.

    `low` (2,) is the patch's corner in pixels of the thumbnails, `scale` the pixels of
    the picture (h, w, 3) over those.
    """
    registry = found.counter.registry
    colours = {n: tuple(bytes.fromhex(c[1:])) for n, c in legend()}
    indices, labels = registry.label_indices(), (*registry.labels, "unidentified")
    is_counted = indices >= 0
    for cell, label in zip(
        registry.cells[is_counted], indices[is_counted].tolist(), strict=True
    ):
        if cell["patch"] != patch:
            continue
        x, y = np.rint((cell["centre"] - low) * scale).astype(int).tolist()
        radius = max(2, round(float(cell["width"]) * scale / 4))
        cv2.circle(picture, (x, y), radius, colours[labels[label]], -1, cv2.LINE_AA)


def _settings(full: bool, seed: int) -> SimulatedSettings:
    return msgspec.structs.replace(_FULL if full else SCAN, seed=seed)


def _scan_lines(
    settings: SimulatedSettings, parts: Parts, frames: int
) -> Iterable[str]:
    """Scan a slide and write what was counted beside the truth."""
    found = scan(settings, parts, frames)
    yield f"{found.frames} frames, {found.jumps} jumps, {found.returns} returns"
    for label, truth in sorted(found.truth.items()):
        count = found.counted[label]
        percent = 100 * (count - truth) / truth
        edge = f"{found.fewest[label]} to {found.most[label]}"
        yield f"{label} {count} of {truth} ({percent:+.2f} %; by the edge {edge})"
    yield f"twice {found.twice}, {_unjoined(found.differential)}"
    yield f"rejected {dict(found.rejected)}"
    cost = np.percentile(found.cost_ms, [50, 99])
    error_px = np.percentile(found.position_errors_px, 99)
    yield f"{cost[0]:.1f} ms of processor time per frame (99 of 100: {cost[1]:.1f})"
    error_um = error_px * settings.pixel_size_um
    yield f"places off by at most {error_um:.2f} µm in 99 of 100"


def _unjoined(differential: Differential) -> str:
    """Count cells without a name, and patches that were not joined."""
    return f"{differential.unidentified} unidentified, {differential.patches} patches"


def _show(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


if __name__ == "__main__":
    counting_command()
