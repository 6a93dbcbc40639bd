"""Say what is on image files: classify."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from edge.errors import ConfigurationInvalid
from edge.pipeline.classify_images import (
    Classified,
    ImagesFailed,
    classify,
    find_images,
)
from edge.pipeline.parts import read_parts
from edge.rendering.annotation import draw, to_jpeg
from edge.sources.image_files import printable


@click.command("classify")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--bundle", type=click.Path(path_type=Path), help="Model; else the shipped."
)
@click.option("--locator", type=click.Path(path_type=Path), help="Locator bundle.")
@click.option("--profile", type=click.Path(path_type=Path), help="Calibration profile.")
@click.option("--pixel-size-um", type=click.FloatRange(0, min_open=True))
@click.option("--crops", is_flag=True, help="Each file is one cell: no location.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line per image.")
@click.option(
    "--pictures",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("annotated"),
    show_default=True,
    help="Folder for annotated pictures.",
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
    """Say what is on image files, or on all images of folders."""
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
    sys.stdout.buffer.write(msgspec.json.encode(result.line()) + b"\n")
    sys.stdout.buffer.flush()
    return result.error is not None


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationInvalid(
            f"{printable(folder)}: {error.strerror}; choose another --pictures"
        ) from error


def _name(result: Classified) -> Text:
    return Text(printable(Path(result.path.name)))


def _show_table(results: Iterator[Classified], files: int, pictures: Path) -> int:
    console = Console()
    grid = Table("image", "size", "µm/px", "cells", "ms")
    failed = 0
    _make(pictures)
    for number, result in enumerate(track(results, total=files, console=console)):
        if result.examined is None:
            failed += 1
            error = Text(str(result.error), "red")
            grid.add_row(_name(result), "", "", error, "")
            continue
        said = result.examined.result
        counts = "  ".join(f"{name} {n}" for name, n in sorted(said.counts.items()))
        scale = "" if said.pixel_size_um is None else f"{said.pixel_size_um:.3f}"
        spent = f"{sum(said.timings_ms.values()):.0f}"
        size = f"{said.width_px}x{said.height_px}"
        grid.add_row(_name(result), size, scale, counts, spent)
        picture = draw(result.examined.raw.pixels, said, max(said.width_px, 960))
        name = f"{number:04d}-{result.path.stem}.jpg"
        (pictures / name).write_bytes(to_jpeg(picture))
    console.print(grid)
    console.print(f"annotated pictures: {pictures}")
    return failed
