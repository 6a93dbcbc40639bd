"""Name the cells on image files: classify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.cli.groups import Section, in_section
from edge.cli.options import PIXEL_SIZE_UM

if TYPE_CHECKING:
    from edge.pipeline.images.outputs import Output


@in_section(Section.LOOK)
@click.command("classify")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="Folder of the model that names cells. Without it, the one that comes with "
    "Hemascope.",
)
@click.option(
    "--locator",
    type=click.Path(path_type=Path),
    help="Folder of the model that finds cells. Without it, the one that comes with "
    "Hemascope.",
)
@click.option(
    "--profile",
    type=click.Path(path_type=Path),
    help="Folder of the calibration profile of the microscope.",
)
@click.option(
    "--pixel-size-um",
    type=PIXEL_SIZE_UM,
    help="Size of a pixel in µm. Without it, the profile's, or else it is estimated "
    "from the red cells of the image.",
)
@click.option(
    "--max-megapixels",
    default=200.0,
    type=click.FloatRange(0, 10_000, min_open=True),
    help="Refuse larger images before they take memory; 200 take 0.6 GB decoded.",
)
@click.option(
    "--crops", is_flag=True, help="Each image shows one cell; look for no others."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line per image.")
@click.option(
    "--csv",
    "table",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write this CSV file: one row per cell.",
)
@click.option(
    "--pictures",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for annotated pictures. Without it, annotated; with --json none are "
    "written.",
)
def classify_command(
    paths: tuple[Path, ...],
    pixel_size_um: float | None,
    max_megapixels: float,
    crops: bool,
    as_json: bool,
    table: Path | None,
    pictures: Path | None,
    **models: Path | None,
) -> None:
    """Name the cells on image files, or on all images in folders.

    PATHS are image files and folders. An image that is larger than a frame of a camera
    is examined in tiles. A `rejected` image has no cells, and a reason.
    """
    from edge.pipeline.images.classify_images import (
        ImagesFailed,
        classify,
        find_images,
        passed_over,
    )
    from edge.pipeline.images.outputs import ImageProgress
    from edge.pipeline.parts import read_parts

    if pictures is None and not as_json:
        pictures = Path("annotated")
    files = find_images(paths, leave_out=pictures)
    if (others := passed_over(paths, leave_out=pictures)) is not None:
        click.echo(others, err=True)
    parts = read_parts(
        classifier=models["bundle"],
        locator=models["locator"],
        profile=models["profile"],
        finds_cells=not crops,
    )
    outputs = _outputs(as_json, table, pictures)
    problems: list[str] = []
    try:  # Ctrl-C, too, ends with what was examined until then
        with ImageProgress(len(files)) as progress:
            pipeline = parts.open_pipeline()
            for result in classify(
                files, pipeline, pixel_size_um, progress.show_tile, max_megapixels
            ):
                progress.show_image(has_failed=result.error is not None)
                line = result.line()
                for output in outputs:
                    output.add(result, line)
    finally:
        for output in outputs:
            problems += output.end()
    if progress.failed:
        text = f"{progress.failed} of {len(files)} images could not be examined"
        problems.insert(0, text)
    if problems:
        raise ImagesFailed("; ".join(problems))


def _outputs(as_json: bool, table: Path | None, pictures: Path | None) -> list[Output]:
    from rich.console import Console

    from edge.pipeline.images.outputs import CsvFile, ImageTable, JsonLines, Pictures

    outputs: list[Output] = [JsonLines() if as_json else ImageTable(Console())]
    outputs += [] if table is None else [CsvFile(table)]
    outputs += [] if pictures is None else [Pictures(pictures)]
    return outputs
