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
    """`folder`: on a local disk; `keep_rows`: so many acknowledged rows are kept."""

    folder: Path
    keep_rows: Annotated[int, Meta(ge=1)] = 200_000


class RunSettings(StrictSettings, frozen=True):
    """`workers`: frames examined at once; if absent one per core, which is best.

    `most_failures`: the process ends after so many failed frames in a row;
    `most_frame_s`: a frame that takes longer counts as hung.

    `resume_within_s`: a run without a schedule, left open by a process, is resumed by
    the next process within this time, and ended after it. A run with a schedule is
    always resumed.

    `frozen_after`: so many identical live frames count as a frozen picture;
    `preview_hz`: annotated pictures per second over MQTT, 0 for none, since a picture
    may show a patient's cells; `preview_width_px`: their width.
    """

    workers: Annotated[int, Meta(ge=1, le=64)] | None = None
    most_failures: Annotated[int, Meta(ge=1)] = 10
    most_frame_s: Annotated[float, Meta(ge=1, le=1e6)] = 30.0
    resume_within_s: NotNegative = 900.0
    frozen_after: Annotated[int, Meta(ge=2)] = 5
    preview_hz: Annotated[float, Meta(ge=0, le=30)] = 0.0
    preview_width_px: Annotated[int, Meta(ge=64, le=1920)] = 960


class DifferentialSettings(StrictSettings, frozen=True):
    """How cells are counted, each cell once.

    `is_on`: count, and let the quality gate reject frames; `wanted_width`: width of a
    share's confidence interval at which a count is complete; `confusion`: a file with
    the model's confusion matrix, to correct the shares.
    """

    is_on: bool = True
    wanted_width: Annotated[float, Meta(ge=0.001, le=1)] = 0.1
    confusion: Path | None = None


Format = Literal["ome-tiff", "ome-zarr"]


Compression = Literal["deflate", "none"]


class RecordingSettings(StrictSettings, frozen=True):
    """Raw frames are kept as OME-TIFF or OME-Zarr, so that a run can be replayed.

    `folder`: for all recordings of this device; `every`: keep every n-th examined
    frame, only with 1 does a replay give the same results; `format`: of the files;
    `compression`: "deflate" halves the size without loss; `most_gb`: size of all
    recordings, beyond which the oldest ones that are not pinned are deleted;
    `least_free_gb`: space that is always left free on the disk.
    """

    folder: Path
    every: Annotated[int, Meta(ge=1, le=100_000)] = 1
    format: Format = "ome-tiff"
    compression: Compression = "deflate"
    most_gb: Annotated[float, Meta(ge=0.01, le=1e6)] = 50.0
    least_free_gb: NotNegative = 2.0


class AlarmSettings(StrictSettings, frozen=True):
    """Limits of the alarms; of two values the first is for amber, the second for red.

    `disk_share`: used share of the ledger's disk; `temperature_c`: of the hottest
    sensor; `no_frame_s`: a live camera that gives no frame for so long counts as
    silent. Changes of followed cells raise one alarm for each kind of change. It ends
    when no cell changed so for `event_quiet_s`; with 0 there are no such alarms.
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
