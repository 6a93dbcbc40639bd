"""Measure the differential and the quality gate; the figures of docs/differential.md.

`python -m export.benchmark.slide.counting COMMAND`, where COMMAND is `walk`, `limits`,
`slides`, `gate` or `picture`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click
import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.pipeline.parts import Parts, read_parts
from edge.rendering.annotation import legend
from edge.schema.results import Differential
from edge.settings.sources import SimulatedSettings
from export.benchmark.slide.interval_coverage import in_seeds, measure_covering
from export.benchmark.slide.quality_gate import GateScore, gate_laboratory, laboratories
from export.benchmark.slide.scan import WALK, SlideScan, walk

# A coarser picture of a smaller slide: a hundred of them are rendered.
_SMALL = msgspec.structs.replace(
    WALK, width_px=480, height_px=300, pixel_size_um=0.28, slide_frames=3.5
)
_FULL = msgspec.structs.replace(
    WALK, width_px=1920, height_px=1200, pixel_size_um=0.07, slide_frames=3.0
)


@click.group()
def instrument() -> None:
    """Measure the differential and the quality gate."""
    cv2.setNumThreads(1)


@instrument.command("walk")
@click.option("--seeds", default=5, show_default=True)
@click.option("--frames", default=600, show_default=True)
@click.option("--full", is_flag=True, help="1920x1200 px, as a camera has.")
def walk_command(seeds: int, frames: int, full: bool) -> None:
    """Walk over simulated slides and compare what was counted with their truth."""
    parts = read_parts()
    for seed in range(1, seeds + 1):
        _say(
            [
                f"slide {seed}: "
                + "; ".join(_walked(_settings(full, seed), parts, frames))
            ]
        )


@instrument.command("limits")
@click.option("--runs", default=1000, show_default=True)
def limits_command(runs: int) -> None:
    """Ask in how many runs of a counting model the limits hold the true shares."""
    for cells in (100, 400, 2000):
        for held in measure_covering(runs, cells, known_from=500):
            percent = {k: f"{100 * n / held.runs:.1f} %" for k, n in held.held.items()}
            _say([f"{held.cells} cells; {held.what}: {percent}; width {held.width}"])


@instrument.command("slides")
@click.option("--runs", default=100, show_default=True)
@click.option("--frames", default=20, show_default=True)
def slides_command(runs: int, frames: int) -> None:
    """Ask on how many slides, seen in part by the whole pipeline, the limits hold."""
    parts = read_parts()
    counted = []

    def one(seed: int) -> dict[str, bool]:
        seen = walk(msgspec.structs.replace(_SMALL, seed=seed), parts, frames)
        total = sum(seen.slide.values())
        counted.append(seen.differential.total)
        held = {
            each.label: each.exact.low
            <= seen.slide[each.label] / total
            <= each.exact.high
            for each in seen.differential.classes
        }
        _say([f"slide {seed}: {seen.differential.total} cells counted, held {held}"])
        return held

    held = in_seeds(runs, one)
    _say([f"{runs} slides, {np.mean(counted):.0f} cells counted of each: held {held}"])


@instrument.command("gate")
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--degraded", default=100, show_default=True, help="Fields made bad.")
def gate_command(data: Path, degraded: int) -> None:
    """Judge the fields of each laboratory, as they are and made bad."""
    parts = read_parts()
    found: list[GateScore] = []
    for name, paths in laboratories(data).items():
        for gated in gate_laboratory(name, paths, parts, degraded):
            found.append(gated)
            limits = "learned" if gated.learned else "first"
            _say(
                [
                    f"{gated.laboratory} | {gated.shown} | {limits} | "
                    f"{gated.accepted} of {gated.frames} accepted | {gated.faults}"
                ]
            )


@instrument.command("picture")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--seed", default=2, show_default=True)
@click.option("--frames", default=500, show_default=True)
def picture_command(path: Path, seed: int, frames: int) -> None:
    """Draw the mosaic of a walk with every counted cell."""
    seen = walk(_settings(False, seed), read_parts(), frames)
    cv2.imwrite(str(path), draw_mosaic(seen)[..., ::-1])


def draw_mosaic(seen: SlideScan, scale: float = 1.5) -> NDArray[np.uint8]:
    """Return the pictures of all places, and a dot on every cell that is counted.

    Returns
    -------
    NDArray[np.uint8]
        (h, w, 3) RGB, the largest patch.
    """
    keys = seen.run.mosaic.keys
    patches = [place.patch for place, _ in keys]
    largest = max(set(patches), key=patches.count)
    keys = [(place, view) for place, view in keys if place.patch == largest]
    corners = np.array([(place.x_px, place.y_px) for place, _ in keys])
    low = corners.min(axis=0)
    height, width = keys[0][1].shape
    right, bottom = np.ceil(corners.max(axis=0) - low).astype(int).tolist()
    canvas = np.full((bottom + height, right + width), 255, np.uint8)
    for (_, view), corner in zip(keys, corners - low, strict=True):
        x, y = np.rint(corner).astype(int)
        canvas[y : y + height, x : x + width] = view
    picture = cv2.resize(canvas, None, fx=scale, fy=scale)
    picture = np.asarray(cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB))
    colours = {n: tuple(bytes.fromhex(c[1:])) for n, c in legend()}
    cells, indices = seen.run.registry.cells, seen.run.registry.label_indices()
    labels = (*seen.run.registry.labels, "unidentified")
    for cell, label in zip(
        cells[indices >= 0], indices[indices >= 0].tolist(), strict=True
    ):
        if cell["patch"] != largest:
            continue
        x, y = np.rint((cell["at"] - low) * scale).astype(int).tolist()
        radius = max(2, round(float(cell["width"]) * scale / 4))
        cv2.circle(picture, (x, y), radius, colours[labels[label]], -1, cv2.LINE_AA)
    return np.asarray(picture, np.uint8)


def _settings(full: bool, seed: int) -> SimulatedSettings:
    return msgspec.structs.replace(_FULL if full else WALK, seed=seed)


def _walked(settings: SimulatedSettings, parts: Parts, frames: int) -> Iterable[str]:
    seen = walk(settings, parts, frames)
    yield f"{seen.frames} frames, {seen.jumps} jumps, {seen.returns} returns"
    for label, truth in sorted(seen.truth.items()):
        count = seen.counted[label]
        off = 100 * (count - truth) / truth
        edge = f"{seen.least[label]} to {seen.most[label]}"
        yield f"{label} {count} of {truth} ({off:+.2f} %; by the edge {edge})"
    yield f"twice {seen.twice}, {_unjoined(seen.differential)}"
    yield f"rejected {dict(seen.rejected)}"
    cost, off = np.percentile(seen.cost_ms, [50, 99]), np.percentile(seen.placed_px, 99)
    yield f"{cost[0]:.1f} ms of processor time per frame (99 of 100: {cost[1]:.1f})"
    yield f"places off by at most {off * settings.pixel_size_um:.2f} µm in 99 of 100"


def _unjoined(differential: Differential) -> str:
    return f"{differential.unidentified} unidentified, {differential.patches} patches"


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


if __name__ == "__main__":
    instrument()
