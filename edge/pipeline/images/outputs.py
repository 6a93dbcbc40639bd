"""Ways out of `classify`: JSON lines, a table, a CSV file, annotated pictures.

Each takes one result after the other, and says the same of it, which `image_lines`
gives them. None of them ends the work on the other images: what could not be written
is said in the end.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TextIO

import msgspec
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table
from rich.text import Text

from edge.errors import ConfigurationInvalid
from edge.pipeline.images.classify_images import Classified
from edge.pipeline.images.image_lines import (
    CELL_COLUMNS,
    IMAGE_COLUMNS,
    ErrorLine,
    ImageLine,
    csv_rows,
    doubt_of,
)
from edge.rendering.annotation import draw, to_jpeg, with_caption
from edge.sources.image_files import printable

_COLOURS = {"ok": "green", "degraded": "yellow", "rejected": "red", "failed": "red"}
_LEAST_WIDTH_PX, _LONGEST_SIDE_PX = 960, 8000


class Output(Protocol):
    """A way out of `classify`."""

    def add(self, result: Classified, line: ImageLine | ErrorLine) -> None:
        """Take the result of the next image, and the line that says it."""

    def end(self) -> Sequence[str]:
        """Write what is left, also after an interruption; return what went wrong."""


class ImageProgress:
    """Bars on the terminal: images done, and tiles of a large one.

    `failed` counts the images that could not be examined.
    """

    def __init__(self, images: int) -> None:
        self.failed = 0
        self._bars = Progress(console=Console(stderr=True), transient=True)
        self._images = self._bars.add_task("images", total=images)
        self._tiles: TaskID | None = None

    def __enter__(self) -> ImageProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show_tile(self, done: int, tiles: int) -> None:
        """Show how many tiles of the present image are done."""
        if self._tiles is None:
            self._tiles = self._bars.add_task("tiles", total=tiles)
        self._bars.update(self._tiles, completed=done, total=tiles)

    def show_image(self, *, has_failed: bool) -> None:
        """Show that one more image is done."""
        self.failed += has_failed
        self._bars.advance(self._images)
        if self._tiles is not None:
            self._bars.remove_task(self._tiles)
            self._tiles = None


class JsonLines:
    """One JSON line per image, as soon as it is examined."""

    def add(self, result: Classified, line: ImageLine | ErrorLine) -> None:
        """See `Output.add`."""
        sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
        sys.stdout.buffer.flush()

    def end(self) -> Sequence[str]:
        """See `Output.end`."""
        return ()


class ImageTable:
    """A table of all images, shown in the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._table = Table("image", "status", "size", "µm/px", "cells", "ms")
        self._models: set[str] = set()
        self._doubts: list[Text] = []

    def add(self, result: Classified, line: ImageLine | ErrorLine) -> None:
        """See `Output.add`."""
        name = Text(printable(Path(result.path.name)))
        if isinstance(line, ErrorLine):
            failed = Text("failed", _COLOURS["failed"])
            self._table.add_row(name, failed, "", "", Text(line.error, "red"), "")
            return
        self._models.add(_made_with(line))
        counts = "  ".join(f"{kind} {n}" for kind, n in line.counts.items())
        if line.reason is not None:
            self._doubts.append(Text(f"{name}: {line.reason}", _COLOURS[line.status]))
        self._table.add_row(
            name,
            Text(line.status, _COLOURS[line.status]),
            f"{line.width}x{line.height}",
            _scale(line),
            Text(counts or f"{line.cells_found} found"),
            f"{sum(line.timings_ms.values()):.0f}",
        )

    def end(self) -> Sequence[str]:
        """See `Output.end`."""
        self._console.print(self._table)
        for doubt in self._doubts:
            self._console.print(doubt)
        for made_with in sorted(self._models):
            self._console.print(made_with, highlight=False)
        return ()


class CsvFile:
    """One row per cell, with all that is known of its image."""

    def __init__(self, path: Path) -> None:
        try:
            self._file: TextIO = path.open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise ConfigurationInvalid(
                f"{printable(path)}: {error.strerror}; choose another --csv"
            ) from error
        self._path = path
        self._error: OSError | None = None
        self._rows = csv.writer(self._file)
        self._rows.writerow((*IMAGE_COLUMNS, *CELL_COLUMNS))

    def add(self, result: Classified, line: ImageLine | ErrorLine) -> None:
        """See `Output.add`."""
        if self._error is None:
            try:
                self._rows.writerows(csv_rows(line))
                self._file.flush()
            except OSError as error:
                self._error = error

    def end(self) -> Sequence[str]:
        """See `Output.end`."""
        try:
            self._file.close()
        except OSError as error:
            self._error = self._error or error
        if self._error is None:
            return ()
        return (f"{printable(self._path)} is not whole: {self._error.strerror}",)


class Pictures:
    """Each image with its cells drawn in, and a caption that says what is known."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationInvalid(
                f"{printable(folder)}: {error.strerror}; choose another --pictures"
            ) from error
        self._folder, self._number = folder, -1
        self._failed: list[str] = []

    def add(self, result: Classified, line: ImageLine | ErrorLine) -> None:
        """See `Output.add`."""
        self._number += 1
        if result.examined is None or isinstance(line, ErrorLine):
            return
        path = self._folder / f"{self._number:04d}-{result.path.stem}.jpg"
        found = result.examined.result
        picture = draw(result.examined.raw.pixels, found, _width(line))
        picture = with_caption(picture, _caption(line))
        try:
            path.write_bytes(to_jpeg(picture))
        except OSError as error:
            self._failed.append(f"{printable(path)}: {error.strerror}")

    def end(self) -> Sequence[str]:
        """See `Output.end`."""
        print(f"annotated pictures: {printable(self._folder)}", file=sys.stderr)  # noqa: T201
        if not self._failed:
            return ()
        return (
            f"{len(self._failed)} pictures could not be written, the first: "
            f"{self._failed[0]}; choose another --pictures",
        )


def _width(line: ImageLine) -> int:
    """Return how wide an annotated picture is: small ones grow, scans shrink."""
    wide = max(line.width, _LEAST_WIDTH_PX)
    longest = wide * max(1.0, line.height / line.width)
    return max(1, round(wide * min(1.0, _LONGEST_SIDE_PX / longest)))


def _caption(line: ImageLine) -> list[str]:
    focus = "" if line.quality is None else f", focus {line.quality.focus:.2f}"
    facts = f"{line.cells_found} cells found, {_scale(line) or 'unknown'} um/px{focus}"
    return [doubt_of(line) or "ok", facts, _made_with(line)]


def _scale(line: ImageLine) -> str:
    if line.pixel_size_um is None:
        return ""
    return f"{line.pixel_size_um:.3f} {line.pixel_size_origin}"


def _made_with(line: ImageLine) -> str:
    calibration = (line.calibration_id or "none")[:12]
    return (
        f"model {line.model}, locator {line.locator or 'none'}, "
        f"calibration {calibration}, software {line.software}"
    )
