"""Settings of the run process: frames, ledger, slide, recording, alarms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from edge.schema.results import Share
from edge.settings.values import (
    Finite,
    NotNegative,
    Positive,
    StrictSettings,
)


class LedgerSettings(StrictSettings, frozen=True):
    """`folder`: on a local disk; `keep_rows`: acknowledged rows that are kept."""

    folder: Path
    keep_rows: Annotated[int, Meta(ge=1)] = 200_000


class RunSettings(StrictSettings, frozen=True):
    """`workers`: frames in flight, one per core if absent, which is best.

    `most_failures`: frames that fail in a row before the process ends;
    `most_frame_s`: so long in work, a frame counts as hung.

    `resume_within_s`: a run without a schedule that a process left open is resumed by
    the next one within this time, and ended after it; one with a schedule is resumed.

    `frozen_after`: identical frames before a live image counts as frozen; `preview_hz`:
    annotated pictures per second for MQTT, 0 sends none: a picture may show a patient's
    cells.
    """

    workers: Annotated[int, Meta(ge=1, le=64)] | None = None
    most_failures: Annotated[int, Meta(ge=1)] = 10
    most_frame_s: Annotated[float, Meta(ge=1, le=1e6)] = 30.0
    resume_within_s: NotNegative = 900.0
    frozen_after: Annotated[int, Meta(ge=2)] = 5
    preview_hz: Annotated[float, Meta(ge=0, le=30)] = 0.0
    preview_width_px: Annotated[int, Meta(ge=64, le=1920)] = 960


class DifferentialSettings(StrictSettings, frozen=True):
    """How cells are counted, each once.

    `is_on`: count, and let the quality gate reject frames; `wanted_width`: how far the
    limits of a share may lie apart at the end; `confusion`: a file with the model's
    confusion, to correct the shares by.
    """

    is_on: bool = True
    wanted_width: Annotated[float, Meta(ge=0.001, le=1)] = 0.1
    confusion: Path | None = None


Format = Literal["ome-tiff", "ome-zarr"]


Compression = Literal["deflate", "none"]


class RecordingSettings(StrictSettings, frozen=True):
    """Raw frames are kept as OME-TIFF or OME-Zarr, so that a run can be replayed.

    `folder`: of all recordings of this device; `every`: of so many examined frames one
    is kept, and only with 1 a replay says the same in everything; `format`: of the
    files; `compression`: "deflate" halves what is written, without loss; `most_gb`: of
    all recordings, then the oldest that are not pinned go; `least_free_gb`: always left
    on the disk.
    """

    folder: Path
    every: Annotated[int, Meta(ge=1, le=100_000)] = 1
    format: Format = "ome-tiff"
    compression: Compression = "deflate"
    most_gb: Annotated[float, Meta(ge=0.01, le=1e6)] = 50.0
    least_free_gb: NotNegative = 2.0


class AlarmSettings(StrictSettings, frozen=True):
    """When the device says that something is wrong: each amber, then red.

    `disk_share` of the ledger's disk that is used; `temperature_c` of the hottest part;
    `no_frame_s`: so long without a frame, a live camera counts as silent. What happens
    to followed cells is one alarm for each kind of change, and over when it happened to
    none for `event_quiet_s`; 0 raises none.
    """

    disk_share: tuple[Share, Share] = (0.85, 0.95)
    temperature_c: tuple[Finite, Finite] = (85.0, 95.0)
    no_frame_s: Positive = 10.0
    event_quiet_s: NotNegative = 600.0

    def __post_init__(self) -> None:
        for name in ("disk_share", "temperature_c"):
            amber, red = getattr(self, name)
            if amber > red:
                raise ValueError(f"{name} is {amber}, {red}, expected amber, then red")
