"""Learn and measure the check that a picture is a field of a smear.

`python -m export.benchmark.slide.field_check learn --data manifest.csv` writes the
colours of known laboratories; `measure` prints the figures of real fields, how many of
them are doubted, and how many made pictures are noticed.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import click
import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.clock import utc_of
from edge.frames import Counts, Exposure, RawFrame, Shot
from edge.pipeline.known_colours import PATH, KnownColoursRecord
from edge.pipeline.parts import read_parts
from edge.pipeline.pipeline import Pipeline
from edge.pipeline.pixel_size import Scale
from edge.pipeline.quality_gate import QualityGate
from edge.schema.results import FrameResult
from edge.settings.sources import SimulatedSettings
from edge.simulation.microscope import SimulatedMicroscope
from edge.sources.image_files import read_image
from edge.stages.detection import locate_at, locator_spec
from edge.stages.field_check import FieldFigures, measure_field

Frame = NDArray[np.uint8]
_PROTOTYPES = 12  # of each laboratory
# Their licences let what is learned from them be passed on; the authors are named.
_MAY_SHIP = ("MIT", "BSD", "CC BY", "free access", "public domain")
_STAINS = ("may-grunwald-giemsa", "wright", "giemsa")


@click.group()
def field_check_command() -> None:
    """Learn and measure the check that a picture is a field of a smear."""
    cv2.setNumThreads(1)


DATA = click.option("--data", type=click.Path(path_type=Path), required=True)


@field_check_command.command("learn")
@DATA
@click.option("--per-source", default=60, show_default=True)
def learn_command(data: Path, per_source: int) -> None:
    """Write the colours of known laboratories, from training fields and simulated ones.

    A dozen points stand for the fields of each source: the centres of k-means clusters.
    """
    pipeline = read_parts().open_pipeline()
    points: dict[str, list[NDArray[np.float64]]] = {}
    for source, path in _fields(data, "train", per_source, free=True):
        points.setdefault(source, []).extend(_points(pipeline, _pixels(path)))
    for stain in _STAINS:
        for seed in range(_PROTOTYPES):
            field = _simulated(stain, seed)
            points.setdefault(f"simulated, {stain}", []).extend(
                _points(pipeline, field)
            )
    every = np.array([point for those in points.values() for point in those])
    spread = every.std(axis=0)
    centres = [
        tuple(np.round(centre, 4).tolist())
        for those in points.values()
        for centre in _centres(np.array(those), spread)
    ]
    record = KnownColoursRecord(
        sources=tuple(points),
        fields=len(every),
        spread=tuple(np.round(spread, 4).tolist()),
        points=tuple(centres),
    )
    PATH.write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
    click.echo(f"{PATH.name}: {len(centres)} points of {len(every)} fields")


@field_check_command.command("measure")
@DATA
@click.option("--split", default="test", show_default=True)
@click.option("--per-source", default=1000, show_default=True)
def measure_command(data: Path, split: str, per_source: int) -> None:
    """Print how many real fields are doubted, and how many made pictures are not."""
    pipeline = read_parts().open_pipeline()
    doubted: dict[str, list[str | None]] = {}
    kept: dict[str, Frame] = {}
    for source, path in _fields(data, split, per_source, free=False):
        result = examine(pipeline, _pixels(path))
        said = None if result.status == "ok" else f"{path.name}: {result.reason}"
        doubted.setdefault(source, []).append(said)
        kept.setdefault(source, _pixels(path))
    for source, all_said in doubted.items():
        reasons = [said for said in all_said if said]
        click.echo(f"{source}: {len(reasons)} of {len(all_said)} fields doubted")
        for said in reasons:
            click.echo(f"    {said}")
    for kind, make in MADE.items():
        missed = [
            s for s, f in kept.items() if examine(pipeline, make(f)).status == "ok"
        ]
        click.echo(
            f"{kind}: {len(kept) - len(missed)} of {len(kept)} noticed, {missed}"
        )


def examine(
    pipeline: Pipeline, pixels: NDArray[np.uint8] | NDArray[np.uint16]
) -> FrameResult:
    """Examine a picture by itself, and let the quality gate judge it."""
    shot = Shot(0, 0, utc_of(0), "benchmark")
    own = replace(pipeline, scale=Scale(None, agreeing=1))
    examined = own.examine(Exposure(shot, lambda: RawFrame(shot, pixels)))
    return QualityGate().judge(examined.result)


def _points(pipeline: Pipeline, pixels: Frame) -> Iterator[NDArray[np.float64]]:
    figures = figures_of(pipeline, pixels)
    if figures is not None and figures.colours is not None:
        yield figures.colours


def figures_of(pipeline: Pipeline, pixels: Frame) -> FieldFigures | None:
    """Measure a field (H, W, 3) as the pipeline does; None at an unknown scale."""
    um = examine(pipeline, pixels).pixel_size_um
    if um is None or pipeline.locator is None or pipeline.locator_engine is None:
        return None
    spec = locator_spec(pipeline.locator)
    small, regions = locate_at(um, pixels, pipeline.locator_engine, spec)
    boxes = regions.boxes * np.float32(small.shape[1] / pixels.shape[1])
    return measure_field(small, boxes, regions)


def _fields(
    data: Path, split: str, per_source: int, *, free: bool
) -> Iterator[tuple[str, Path]]:
    """Yield source and path of whole fields and large crops of a manifest."""
    found: dict[str, dict[str, None]] = {}
    with data.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            is_field = row["task"] in ("cells4", "rbc_shape", "wbc_subtype")
            may_ship = row["licence"].startswith(_MAY_SHIP)
            is_crop = row["source"] in ("rpi_wbc_crops", "zx1")
            is_wanted = row["split"] == split and (may_ship or not free)
            if is_field and not is_crop and is_wanted:
                found.setdefault(row["source"], {})[row["path"]] = None
    for source, paths in found.items():
        step = max(1, len(paths) // per_source)
        for path in list(paths)[::step][:per_source]:
            yield source, data.parent / path


def _pixels(path: Path) -> Frame:
    return np.asarray(read_image(path), np.uint8)


def _centres(
    points: NDArray[np.float64], spread: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return at most a dozen centres (K, 8) of points (N, 8), by k-means."""
    if len(points) <= _PROTOTYPES:
        return points
    scaled = np.asarray(points / spread, np.float32)
    ends = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-4)
    cv2.setRNGSeed(0)
    _, _, centres = cv2.kmeans(
        scaled,
        _PROTOTYPES,
        None,
        ends,
        5,
        cv2.KMEANS_PP_CENTERS,
    )
    return np.asarray(centres * spread, np.float64)


def _simulated(stain: str, seed: int) -> Frame:
    settings = SimulatedSettings(
        width_px=640,
        height_px=480,
        rate_hz=0,
        seed=seed,
        stain=stain,  # type: ignore[arg-type]
    )
    return SimulatedMicroscope(settings).render(0)


def _with_circle(field: Frame) -> Frame:
    """Return a field as seen through an eyepiece, black around a circle."""
    height, width = field.shape[:2]
    lit = np.zeros((height, width), np.uint8)
    middle = (width // 2, height // 2)
    cv2.circle(lit, middle, round(0.48 * min(height, width)), 1, cv2.FILLED)
    return np.asarray(np.where(lit[..., None] > 0, field, 0), np.uint8)


def _with_bar(field: Frame) -> Frame:
    """Return a field with a scale bar and its label, black."""
    drawn, (height, width) = field.copy(), field.shape[:2]
    y, x = round(0.93 * height), round(0.7 * width)
    corner = (x + width // 5, y + max(3, height // 100))
    cv2.rectangle(drawn, (x, y), corner, (0, 0, 0), cv2.FILLED)
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(drawn, "10 um", (x, y - 4), font, 0.5, (0, 0, 0), 2)
    return np.asarray(drawn, np.uint8)


def _with_frame(field: Frame) -> Frame:
    """Return a field with a frame burnt in, grey."""
    drawn, wide = field.copy(), max(4, field.shape[0] // 40)
    for side in (np.s_[:wide], np.s_[-wide:], np.s_[:, :wide], np.s_[:, -wide:]):
        drawn[side] = 128
    return np.asarray(drawn, np.uint8)


MADE: dict[str, Callable[[Frame], Counts]] = {
    "red and blue exchanged": lambda f: np.ascontiguousarray(f[..., ::-1]),
    "12 of 16 bits": lambda f: f.astype(np.uint16) * np.uint16(16),
    "black surround": _with_circle,
    "frame burnt in": _with_frame,
    "scale bar": _with_bar,
    "half the light": lambda f: np.asarray(f // 2, np.uint8),
    "out of focus": lambda f: np.asarray(cv2.GaussianBlur(f, (0, 0), 9), np.uint8),
    "grey": lambda f: np.repeat(f[..., 1:2], 3, axis=2),
    "negative": lambda f: np.asarray(255 - f, np.uint8),
}


if __name__ == "__main__":
    field_check_command()
