"""Name the cells on image files: classify."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.cli.groups import Section, in_section
from edge.cli.options import PIXEL_SIZE_UM
from edge.errors import ConfigurationInvalid

if TYPE_CHECKING:
    from rich.text import Text

    from edge.pipeline.classify_images import Classified


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
    "--crops", is_flag=True, help="Each image shows one cell; look for no others."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line per image.")
@click.option(
    "--pictures",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("annotated"),
    help="Folder for annotated pictures. With --json none are written.",
)
def classify_command(
    paths: tuple[Path, ...],
    bundle: Path | None,
    locator: Path | None,
    profile: Path | None,
    pixel_size_um: float | None,
    crops: bool,
    as_json: bool,
    pictures: Path,
) -> None:
    """Name the cells on image files, or on all images in folders.

    PATHS are image files and folders.
    """
    from edge.pipeline.classify_images import ImagesFailed, classify, find_images
    from edge.pipeline.parts import read_parts

    files = find_images(paths, leave_out=None if as_json else pictures)
    parts = read_parts(
        classifier=bundle, locator=locator, finds_cells=not crops, profile=profile
    )
    results = classify(files, parts.open_pipeline(), pixel_size_um)
    if as_json:
        failed = sum(_print_line(result) for result in results)
    else:
        failed = _show_table(results, len(files), pictures)
    if failed:
        raise ImagesFailed(f"{failed} of {len(files)} images could not be examined")


def _print_line(result: Classified) -> bool:
    import msgspec

    sys.stdout.buffer.write(msgspec.json.encode(result.line()) + b"\n")
    sys.stdout.buffer.flush()
    return result.error is not None


def _make(folder: Path) -> None:
    from edge.sources.image_files import printable

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationInvalid(
            f"{printable(folder)}: {error.strerror}; choose another --pictures"
        ) from error


def _show_table(results: Iterator[Classified], files: int, pictures: Path) -> int:
    """Show a row for each image and draw its picture; return how many failed."""
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    console = Console()
    grid = Table("image", "size", "µm/px", "cells", "ms")
    failed = 0
    _make(pictures)
    for number, result in enumerate(track(results, total=files, console=console)):
        failed += result.examined is None
        grid.add_row(*_cells_of(result))
        _write_picture(result, pictures / f"{number:04d}-{result.path.stem}.jpg")
    console.print(grid)
    console.print(f"annotated pictures: {pictures}")
    return failed


def _cells_of(image: Classified) -> tuple[str | Text, ...]:
    """Return the cells of an image's row in the table."""
    from rich.text import Text

    from edge.sources.image_files import printable

    name = Text(printable(Path(image.path.name)))
    if image.examined is None:
        return name, "", "", Text(str(image.error), "red"), ""
    result = image.examined.result
    counts = "  ".join(f"{kind} {n}" for kind, n in sorted(result.counts.items()))
    scale = "" if result.pixel_size_um is None else f"{result.pixel_size_um:.3f}"
    spent = f"{sum(result.timings_ms.values()):.0f}"
    return name, f"{result.width_px}x{result.height_px}", scale, counts, spent


def _write_picture(image: Classified, path: Path) -> None:
    from edge.rendering.annotation import draw, to_jpeg

    if image.examined is not None:
        result = image.examined.result
        picture = draw(image.examined.raw.pixels, result, max(result.width_px, 960))
        path.write_bytes(to_jpeg(picture))
