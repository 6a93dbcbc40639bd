"""Read frames for a calibration: from the device's camera, or from a folder."""

from __future__ import annotations

from pathlib import Path

import click
from rich.progress import Progress

from calibration.field import FieldRefused
from edge.errors import ConfigurationInvalid
from edge.frames import Exposure, RawFrame, SourceEnded
from edge.schema.codec import read_toml
from edge.settings.files import DeviceFile
from edge.settings.sources import FolderSettings, SourceSettings
from edge.sources.opening import open_source

_READ_S, _MAX_SILENT_READS = 1.0, 10


def source_of(config: Path | None, images: Path | None) -> SourceSettings:
    """Return the source that a settings file or a folder names.

    Raises
    ------
    UsageError
        Neither is named, or both are.
    """
    if (config is None) == (images is None):
        raise click.UsageError("name either --config or --images")
    if config is not None:
        return read_toml(config, DeviceFile).source
    return FolderSettings(images or Path())


def read_frames(
    settings: SourceSettings, count: int | None, what: str
) -> list[RawFrame]:
    """Read `count` frames, or all of a folder where it is None.

    Raises
    ------
    FieldRefused
        The camera stopped delivering.
    ConfigurationInvalid
        No frame came.
    """
    source = open_source(settings)
    frames: list[RawFrame] = []
    silent = 0
    try:
        with Progress(transient=True) as bar:
            task = bar.add_task(f"reading: {what}", total=count)
            while count is None or len(frames) < count:
                item = source.read(_READ_S)
                silent = silent + 1 if item is None else 0
                if isinstance(item, Exposure):
                    frames.append(item.develop())
                    bar.update(task, completed=len(frames))
                if silent > _MAX_SILENT_READS:
                    raise FieldRefused(
                        f"{len(frames)} frames came, expected {count}; see whether "
                        "the camera delivers"
                    )
    except SourceEnded:
        pass
    finally:
        source.close()
    if not frames:
        raise ConfigurationInvalid(f"{what}: no frame came; name another source")
    return frames
