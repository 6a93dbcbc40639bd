"""The command `hemascope bench`."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import click
import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edge.artifacts.bundle import CLASSIFIER, crop_size, load_bundle
from edge.clock import utc_now, utc_of
from edge.errors import ConfigurationInvalid
from edge.frames import Exposure, RawFrame, Shot
from edge.pipeline.images.classify_images import find_images
from edge.pipeline.parts import Parts, read_parts
from edge.rendering.annotation import draw, to_jpeg
from edge.settings.sources import SimulatedSettings
from edge.simulation.microscope import SimulatedMicroscope
from edge.sources.image_files import read_image
from export.benchmark.delivery import measure_delivery
from export.benchmark.engine_build import measure_building
from export.benchmark.gpu_runtimes import measure_gpu
from export.benchmark.interleaved_timing import Figure, at_least, in_turns, spread
from export.benchmark.run_throughput import faster_than_bound, measure_running
from export.benchmark.stages import measure_stages

Frame = NDArray[np.uint8]
_PIXEL_UM = 0.07
_REAL_PIXEL_UM = 0.075  # 7.5 µm over the median red cell of 100 px


def run_bench(
    bundles: tuple[Path, ...],
    real: Path | None,
    engine: str,
    rounds: int,
    out: Path | None,
) -> None:
    """Measure the speed of all parts, and show a table."""
    cv2.setNumThreads(1)
    if engine != "onnxruntime":
        _measure_engines(engine, bundles, rounds, out)
        return
    parts = read_parts(classifier=bundles[0] if bundles else None)
    simulated = _simulated_frames(12)
    sections = {"simulated microscope": _measure_source(simulated, rounds)}
    sections |= _measure_device("simulated", simulated, parts, _PIXEL_UM, rounds, 60)
    if real is not None:
        fields = _real_fields(real, 12)
        sections |= _measure_device("real", fields, parts, _REAL_PIXEL_UM, rounds, 200)
    result = parts.open_pipeline().examine(_exposure(simulated[0])).result
    sections["delivery, loopback"] = measure_delivery(result, rows=200)
    sections["against a laboratory's own stack"] = _measure_reference(
        simulated, parts, rounds
    )
    _show(sections, out)


def _measure_engines(
    engine: str, bundles: tuple[Path, ...], rounds: int, out: Path | None
) -> None:
    """Build each bundle in all its precisions, and measure it where there is a GPU."""
    models = [load_bundle(folder) for folder in bundles or (CLASSIFIER,)]
    if engine == "tensorrt":
        now = utc_now().replace(microsecond=0)
        lines = measure_gpu(models, rounds, now, click.echo)
    else:
        lines = measure_building(models, click.echo)
    click.echo("\n".join(lines))
    if out is not None:
        out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _measure_device(
    name: str,
    frames: Sequence[Frame],
    parts: Parts,
    pixel_um: float,
    rounds: int,
    results: int,
) -> dict[str, list[Figure]]:
    """Measure the stages and the whole run process on frames (H, W, 3) uint8 RGB.

    `results` is how many results of the run process count.
    """
    cores = os.cpu_count() or 1
    stages = measure_stages(frames, parts, pixel_um, rounds)
    encoded = [to_jpeg(frame) for frame in frames]
    camera = faster_than_bound(encoded, parts, pixel_um, cores)
    return {
        f"stages, {name} field, one core": stages,
        f"run process, {name} JPEG frames": measure_running(
            camera, parts, cores, frames=results
        ),
    }


def _real_fields(folder: Path, count: int) -> list[Frame]:
    """Return the first fields of 640x480 px by name."""
    found: list[Frame] = []
    for path in find_images([folder]):
        field = read_image(path)
        if field.shape == (480, 640, 3) and field.dtype == np.uint8:
            found.append(np.asarray(field, np.uint8))
        if len(found) == count:
            return found
    if not found:
        raise ConfigurationInvalid(
            f"{folder}: holds no field of 640x480 px and 8 bits; name another folder"
        )
    return found


def _simulated_frames(count: int) -> list[Frame]:
    """Render frames of different places of a simulated slide."""
    microscope = SimulatedMicroscope(SimulatedSettings(rate_hz=0))
    return [microscope.render(40 * number) for number in range(count)]


def _measure_source(frames: Sequence[Frame], rounds: int) -> list[Figure]:
    """Measure how fast the simulated microscope renders."""
    microscope = SimulatedMicroscope(SimulatedSettings(rate_hz=0))
    numbers = iter(range(10**9))
    spent_ms = in_turns(
        {"render": lambda: microscope.render(next(numbers))}, 4 * rounds
    )
    this = spread(spent_ms["render"])
    size = f"{frames[0].shape[1]}x{frames[0].shape[0]}"
    return [at_least("frames/s rendered", 1e3 / this.median, 30, f"{size}, {this} ms")]


def _exposure(frame: Frame) -> Exposure:
    """Return a frame (H, W, 3) as an exposure."""
    shot = Shot(0, 0, utc_of(0), "bench", pixel_size_um=_PIXEL_UM)
    return Exposure(shot, lambda: RawFrame(shot, frame))


def _measure_reference(
    frames: Sequence[Frame], parts: Parts, rounds: int
) -> list[Figure]:
    """Compare the pipeline with one of well-known libraries, in turns."""
    try:
        import torch

        from export.benchmark.reference_pipeline import ReferencePipeline
    except ImportError as error:
        return [Figure("not measured", float("nan"), f"{error.name} is not installed")]
    torch.set_num_threads(1)
    record = parts.classifier.record
    reference = ReferencePipeline(
        frames[0], record.family, len(record.classes), crop_size(parts.classifier)
    )
    pipeline = parts.open_pipeline()
    frame = frames[0]

    def ours() -> None:
        examined = pipeline.examine(_exposure(frame))
        to_jpeg(draw(frame, examined.result, 960))

    normal = reference.normalise(frame)
    boxes = reference.locate(normal)
    tasks = {
        "ours": ours,
        "peer": lambda: reference.examine(frame),
        "normalise": lambda: reference.normalise(frame),
        "locate": lambda: reference.locate(normal),
        "classify": lambda: reference.classify(normal, boxes),
    }
    spreads = {n: spread(v) for n, v in in_turns(tasks, max(3, rounds // 4)).items()}
    ratio = spreads["peer"].median / spreads["ours"].median
    parts_ms = ", ".join(f"{n} {spreads[n].median:.0f}" for n in list(tasks)[2:])
    return [
        at_least(
            "whole frame, peer over ours",
            ratio,
            7,
            f"{spreads['peer']} over {spreads['ours']} ms; peer: {parts_ms} ms",
        )
    ]


def _show(sections: dict[str, list[Figure]], out: Path | None) -> None:
    """Print a table for each section, and write them as Markdown."""
    console = Console()
    where = (
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, OpenCV {cv2.__version__}, ONNX Runtime "
        f"{onnxruntime.__version__}, {utc_now():%Y-%m-%d}"
    )
    lines = [f"Measured on {where}. Medians, quartiles in brackets.", ""]
    for title, figures in sections.items():
        grid = Table("figure", "ratio or value", "goal", "measured", title=title)
        lines += [
            f"### {title}",
            "",
            "| figure | value | goal | measured |",
            "|---|---|---|---|",
        ]
        for figure in figures:
            mark = {None: "", True: " met", False: " MISSED"}[figure.is_met]
            row = (
                figure.name,
                f"{figure.value:.2f}",
                figure.goal + mark,
                figure.detail,
            )
            grid.add_row(*row)
            lines.append("| " + " | ".join(row) + " |")
        console.print(grid)
        lines.append("")
    if out is not None:
        out.write_text("\n".join(lines), encoding="utf-8")
        console.print(f"written to {out}")
