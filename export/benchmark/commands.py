"""The commands `bench` and `bench-timelapse`, and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edge.cli.groups import CommandGroup, Section, in_section

_PATH = click.Path(path_type=Path)
_FOUND = click.Path(path_type=Path, exists=True)
_RECURRENT = click.option(
    "--bundle",
    type=_FOUND,
    help="Folder of a recurrent model. Without it, the one that comes with Hemascope.",
)


@in_section(Section.MAINTENANCE)
@click.command("bench")
@click.option(
    "--bundle",
    "bundles",
    multiple=True,
    type=_PATH,
    help="Folder of a model. With --engine tensorrt, may be given several times. "
    "Without it, the model that comes with Hemascope.",
)
@click.option(
    "--real",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    envvar="HEMASCOPE_REAL_FIELDS",
    show_envvar=True,
    help="Folder of real fields of 640x480 px. Without it, they are left out.",
)
@click.option(
    "--engine",
    default="onnxruntime",
    type=click.Choice(["onnxruntime", "tensorrt", "tensorrt-rtx"]),
    help="onnxruntime: measure all parts on this CPU. tensorrt: build each --bundle in "
    "all its precisions and measure it on this GPU. tensorrt-rtx: only build, which "
    "needs no GPU.",
)
@click.option("--rounds", default=25, help="Repetitions of each measurement.")
@click.option("--out", type=_PATH, help="File to which the tables are written too.")
def bench_command(**options: Any) -> None:
    """Measure the speed of all parts, beside a pipeline of well-known libraries."""
    from export.benchmark.bench_command import run_bench

    run_bench(**options)


@in_section(Section.MAINTENANCE)
@click.group("bench-timelapse", cls=CommandGroup)
def timelapse_command() -> None:
    """Measure what following cells over time brings and costs."""


@timelapse_command.command("tracking")
@click.option(
    "--cells",
    "sizes",
    multiple=True,
    type=click.IntRange(50),
    default=(100, 500, 1000),
    help="Number of cells in a scene. May be given several times.",
)
@click.option("--frames", default=60, help="Frames of each scene.")
@click.option(
    "--real",
    type=_FOUND,
    help="Manifest with the detections of flowcatchr, for a real scene.",
)
def tracking_command(**options: Any) -> None:
    """Score the tracker and trackpy on scenes of known tracks."""
    from export.benchmark.timelapse.bench_command import measure_tracking

    measure_tracking(**options)


@timelapse_command.command("events")
@_RECURRENT
@click.option("--hours", default=6.0, help="Length of each simulated run in hours.")
@click.option("--runs", default=1, help="Number of simulated runs.")
@click.option(
    "--first-seed", default=1, help="Seed of the first run. The next have the next."
)
@click.option("--changing", default=0.5, help="Share of the cells that change.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    help="NAME=VALUE of the simulated microscope, as in [source]. May be given several "
    "times.",
)
@click.option("--picture", type=_PATH, help="File for a picture of some tracks (PNG).")
def events_command(**options: Any) -> None:
    """Count how many changes of cells are found in simulated runs.

    The runs have one frame every ten seconds.
    """
    from export.benchmark.timelapse.bench_command import measure_events

    measure_events(**options)


@timelapse_command.command("cost")
@_RECURRENT
@click.option("--frames", default=10_500, help="Frames of the run.")
@click.option("--cells", default=100, help="Cells in each frame.")
@click.option("--interval-s", default=2.0, help="Time between two frames in seconds.")
def cost_command(**options: Any) -> None:
    """Measure whether a frame costs more the longer a run lasts."""
    from export.benchmark.timelapse.bench_command import measure_cost_of_run

    measure_cost_of_run(**options)


@timelapse_command.command("degraded")
@_RECURRENT
@click.option(
    "--alone",
    type=_FOUND,
    required=True,
    help="Folder of a model without a memory, to compare with.",
)
@click.option("--clips", default=400, help="Number of simulated clips.")
@click.option(
    "--smooth",
    default=5,
    help="Frames over which the answers of the model without a memory are averaged.",
)
def degraded_command(**options: Any) -> None:
    """Compare models with and without a memory on blurred, noisy and dark clips."""
    from export.benchmark.timelapse.bench_command import measure_degraded

    measure_degraded(**options)
