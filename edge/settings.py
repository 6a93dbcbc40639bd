"""Settings of the programs: strict TOML, no unknown keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge.schema.requests import CommandName
from edge.schema.results import BalanceName, ControlName, Name, Share

Positive = Annotated[float, Meta(gt=0, le=1e6)]
NotNegative = Annotated[float, Meta(ge=0, le=1e6)]
Finite = Annotated[float, Meta(ge=-1e6, le=1e6)]
Pixels = Annotated[int, Meta(ge=16, le=16384)]
Port = Annotated[int, Meta(ge=1, le=65535)]


EngineKind = Literal["onnxruntime", "tensorrt"]
Precision = Literal["fp32", "fp16", "int8"]
Lowered = Literal["fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
Rows = Annotated[int, Meta(ge=1, le=4096)]


class _Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class SimulatedSettings(_Settings, frozen=True, tag_field="kind", tag="simulated"):
    """The simulated microscope. `rate_hz` 0 gives frames as fast as they are read.

    `lamp`: light per channel, 1 is full scale; `lamp_drift_per_h`: share of it;
    `defocus_um`: how far the stage wanders out of focus; `noise`: standard deviation in
    counts; `unplug_every_s`: seconds between losses of the camera, 0 for none;
    `changing`: share of red cells, platelets and neutrophils to which something happens
    within `changing_within_h`: they swell, burst or spread, in `change_takes_s`.
    `slide_frames`: the slide is so many frames wide and high; `is_endless`: it begins
    again at its edges, else the stage turns back there.
    """

    width_px: Pixels = 1920
    height_px: Pixels = 1200
    rate_hz: NotNegative = 30.0
    pixel_size_um: Positive = 0.07
    stain: Literal["may-grunwald-giemsa", "wright", "giemsa"] = "may-grunwald-giemsa"
    cells_per_mm2: NotNegative = 6500.0
    drift_um_per_s: Finite = 1.5
    hand_move_every_s: NotNegative = 8.0
    defocus_um: NotNegative = 0.3
    vignetting: Share = 0.25
    lamp: tuple[Share, Share, Share] = (0.97, 0.95, 0.92)
    lamp_drift_per_h: Finite = 0.0
    noise: NotNegative = 2.0
    drop_share: Share = 0.0
    unplug_every_s: NotNegative = 0.0
    unplug_for_s: NotNegative = 5.0
    changing: Share = 0.0
    changing_within_h: Positive = 6.0
    change_takes_s: Positive = 60.0
    seed: Annotated[int, Meta(ge=0)] = 0
    slide_frames: Annotated[float, Meta(ge=1.5, le=12)] = 2.2
    is_endless: bool = True


class ControlSettings(_Settings, frozen=True):
    """How a camera shall be set; it is locked, and read back.

    What is left out keeps the value that the camera has, with its automatic off where
    the driver allows. `gain`, `balance` (of colours) and `gamma` are in the driver's
    own units. `automatic`: what the camera may go on changing by itself.
    """

    exposure_ms: Positive | None = None
    gain: NotNegative | None = None
    white_balance_k: Annotated[float, Meta(ge=1000, le=20_000)] | None = None
    balance: dict[BalanceName, NotNegative] = {}
    gamma: Positive | None = None
    automatic: tuple[ControlName, ...] = ()

    def __post_init__(self) -> None:
        wanted = {
            "exposure": self.exposure_ms,
            "gain": self.gain,
            "white_balance": self.white_balance_k or self.balance or None,
            "gamma": self.gamma,
        }
        for name in self.automatic:
            if wanted[name] is not None:
                raise ValueError(
                    f"{name} is automatic and has a value; leave one of them out"
                )


AS_FOUND = ControlSettings()


class OpenCVSettings(_Settings, frozen=True, tag_field="kind", tag="opencv"):
    """A camera or stream that OpenCV reads.

    `device`: a V4L2 path such as /dev/v4l/by-id/…, or an rtsp:// or http:// address.
    `width_px`, `height_px`, `rate_hz` and `fourcc` are asked of a V4L2 camera, which
    must then deliver that size; `controls` lock it. `stall_s`: so long without a frame
    is a loss.
    """

    device: str
    width_px: Pixels | None = None
    height_px: Pixels | None = None
    rate_hz: Positive | None = None
    fourcc: Annotated[str, Meta(min_length=4, max_length=4)] | None = None
    stall_s: Positive = 5.0
    pixel_size_um: Positive | None = None
    controls: ControlSettings = AS_FOUND


class VideoSettings(_Settings, frozen=True, tag_field="kind", tag="video"):
    """A video file, a recording that waits for its reader."""

    path: Path
    pixel_size_um: Positive | None = None


class GStreamerSettings(_Settings, frozen=True, tag_field="kind", tag="gstreamer"):
    """A GStreamer pipeline, written as for gst-launch-1.0 without its sink.

    `is_live` false makes a file wait for us instead of dropping frames. `controls` lock
    the camera of a v4l2src; others are set in the pipeline.
    """

    pipeline: str
    is_live: bool = True
    stall_s: Positive = 5.0
    pixel_size_um: Positive | None = None
    controls: ControlSettings = AS_FOUND


class FolderSettings(_Settings, frozen=True, tag_field="kind", tag="folder"):
    """A folder of images in the order of their names, at a pace; 0 is without pause.

    `bits`: that mean something in images of 16 bits; cameras often fill 10 or 12.
    """

    path: Path
    rate_hz: NotNegative = 0.0
    is_repeated: bool = False
    pixel_size_um: Positive | None = None
    bits: Annotated[int, Meta(ge=8, le=16)] = 16


class MicroManagerSettings(
    _Settings, frozen=True, tag_field="kind", tag="micromanager"
):
    """A camera that Micro-Manager drives, through pymmcore-plus.

    `config`: its configuration file; `adapters`: the folder of its device adapters,
    where pymmcore-plus finds it if absent; `camera`: label of the camera, the
    configuration's own if absent. `presets` (of groups) and `properties` (of devices)
    are set in this order. `buffer_mb` holds frames that nobody has fetched yet.
    `pixel_size_um`: the configuration's own if absent.
    """

    config: Path
    adapters: Path | None = None
    camera: str | None = None
    presets: dict[str, str] = {}
    properties: dict[str, dict[str, str]] = {}
    buffer_mb: Annotated[int, Meta(ge=1, le=16384)] = 256
    stall_s: Positive = 5.0
    pixel_size_um: Positive | None = None
    controls: ControlSettings = AS_FOUND


class GenICamSettings(_Settings, frozen=True, tag_field="kind", tag="genicam"):
    """An industrial camera, GigE Vision or USB3 Vision, through Aravis.

    `camera`: its id, serial or network address, the only one there is if absent.
    `pixel_format`, `width_px`, `height_px` and `rate_hz`: as the camera has them if
    absent; format and size must be had.
    """

    camera: str | None = None
    pixel_format: str | None = None
    width_px: Pixels | None = None
    height_px: Pixels | None = None
    rate_hz: Positive | None = None
    stall_s: Positive = 5.0
    pixel_size_um: Positive | None = None
    controls: ControlSettings = AS_FOUND


SourceSettings = (
    SimulatedSettings
    | OpenCVSettings
    | GStreamerSettings
    | GenICamSettings
    | MicroManagerSettings
    | VideoSettings
    | FolderSettings
)


class BrokerSettings(_Settings, frozen=True, kw_only=True):
    """The MQTT 5 broker. `ca` turns TLS on; `cert` and `key` then prove who we are.

    `password_file` holds the password alone, so that it never stands in the settings.
    """

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Port = 1883
    keepalive_s: Annotated[int, Meta(ge=2, le=600)] = 10
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    username: str | None = None
    password_file: Path | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key go together: give both or neither")
        if self.cert is not None and self.ca is None:
            raise ValueError("cert and key need ca, which turns TLS on")


class PublishSettings(_Settings, frozen=True):
    """`window`: rows sent beyond the last acknowledged; `ack_timeout_s`: then again."""

    window: Annotated[int, Meta(ge=1, le=5000)] = 200
    ack_timeout_s: Positive = 10.0


class EngineSettings(_Settings, frozen=True):
    """What runs the models.

    `precision`: one that the bundle has; `threads` per worker, on the CPU. The others
    are for TensorRT. `batch`: least, usual and most cells of a call; `engines`: folder
    of what is built, the bundle's own if absent; `has_graphs`: replay CUDA graphs;
    `is_mapped`: share memory between CPU and GPU, on integrated ones if absent.
    """

    engine: EngineKind = "onnxruntime"
    precision: Precision = "fp32"
    threads: Annotated[int, Meta(ge=1, le=64)] = 1
    batch: tuple[Rows, Rows, Rows] = (1, 32, 128)
    engines: Path | None = None
    has_graphs: bool = True
    is_mapped: bool | None = None

    def __post_init__(self) -> None:
        if list(self.batch) != sorted(self.batch):
            raise ValueError(
                f"batch is {self.batch}, expected least, usual and most in this order"
            )


ON_CPU = EngineSettings()


class ModelSettings(EngineSettings, frozen=True):
    """`bundle`: the classifier, the shipped one if absent."""

    bundle: Path | None = None


class LocationSettings(_Settings, frozen=True):
    """`mode`: find cells, or take the whole field as one region."""

    mode: Literal["cells", "whole-field"] = "cells"
    bundle: Path | None = None


MOST_STEPS = 500  # of a cell, in the longest shift of a field


class TrackingSettings(_Settings, frozen=True):
    """Cells are followed from frame to frame.

    `most_step_um`: farthest a cell moves on its own between two frames;
    `most_shift_um`: farthest the whole field moves between two frames and is still
    recognised; `confirm_after`: frames a cell is found in before it has a number;
    `coast_frames`: frames it may be missing before its track ends; `most_tracks`: cells
    followed at once: beyond it, those missing longest are dropped for new ones, and
    then new ones are not followed.
    """

    most_step_um: Positive = 3.0
    most_shift_um: Positive = 60.0
    confirm_after: Annotated[int, Meta(ge=1, le=100)] = 2
    coast_frames: Annotated[int, Meta(ge=0, le=1000)] = 5
    most_tracks: Annotated[int, Meta(ge=1, le=5000)] = 1000

    def __post_init__(self) -> None:
        if self.most_shift_um > MOST_STEPS * self.most_step_um:
            raise ValueError(
                f"most_shift_um is {self.most_shift_um:g}, expected at most "
                f"{MOST_STEPS} times most_step_um, {self.most_step_um:g}: shifts are "
                "looked for in steps of it"
            )


class SequenceSettings(EngineSettings, frozen=True):
    """A recurrent model sees each followed cell, one step per frame.

    `bundle`: the model, the shipped one if absent. `memory_frames`: how far the memory
    of a cell goes back while nothing happens to it, as models are trained on clips that
    are no longer; 0 is for ever, at half the cost.
    """

    bundle: Path | None = None
    memory_frames: Annotated[int, Meta(ge=0, le=100_000)] = 20


class PhaseSettings(_Settings, frozen=True):
    """Points at one interval, for `duration_h` or so many `points`."""

    interval_s: Annotated[float, Meta(ge=0.01, le=1e6)]
    duration_h: Positive | None = None
    points: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None

    def __post_init__(self) -> None:
        if (self.duration_h is None) == (self.points is None):
            raise ValueError("give duration_h or points, one of the two")


class ScheduleSettings(_Settings, frozen=True):
    """Frames are examined at planned points, and at no other time.

    One phase as `interval_s` with `duration_h` or `points`, or several as `phases`, or
    a useq-schema `file`. `frames_per_point`: so many, one after the other.
    `when_done`: after the last point the run ends; then the process ends, or waits for
    the command to start another.
    """

    file: Path | None = None
    interval_s: Annotated[float, Meta(ge=0.01, le=1e6)] | None = None
    duration_h: Positive | None = None
    points: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    phases: Annotated[tuple[PhaseSettings, ...], Meta(max_length=1000)] = ()
    frames_per_point: Annotated[int, Meta(ge=1, le=1000)] = 1
    when_done: Literal["end", "wait"] = "end"

    def __post_init__(self) -> None:
        given = [self.file is not None, self.interval_s is not None, bool(self.phases)]
        if sum(given) != 1:
            raise ValueError("give file, interval_s or phases, one of the three")
        self.all_phases  # noqa: B018 refuse at once what it refuses

    @property
    def all_phases(self) -> tuple[PhaseSettings, ...]:
        """The phases, none where a file has them."""
        if self.interval_s is not None:
            return (PhaseSettings(self.interval_s, self.duration_h, self.points),)
        if self.duration_h is not None or self.points is not None:
            raise ValueError("duration_h and points go with interval_s")
        return self.phases


class PauseSettings(_Settings, frozen=True):
    """What missing frames do to what is remembered of cells.

    A pause longer than `lost_after` times the usual one between two frames makes states
    discontinuous, one longer than `reset_after_s` makes them new.
    """

    lost_after: Annotated[float, Meta(ge=1.1, le=1000)] = 1.8
    reset_after_s: Positive = 120.0


class EventSettings(_Settings, frozen=True):
    """When a change of a followed cell is believed.

    `quiet`: classes that are no event; `begin_at`: least probability that makes a
    change suspected, and dates it; `confirm_at`: least mean over `confirm_frames`
    frames that confirms it, and `least_rise` how far the log-odds must then lie above
    what they usually are for this very cell; `doubt_frames`: a suspicion that is not
    confirmed so soon is dropped; `end_below`: over once the mean is lower;
    `settle_frames`: of a new state nothing is believed for so many frames.
    """

    quiet: tuple[str, ...] = ("steady", "unreliable")
    begin_at: Share = 0.5
    confirm_at: Share = 0.85
    end_below: Share = 0.3
    confirm_frames: Annotated[int, Meta(ge=1, le=100)] = 3
    least_rise: Annotated[float, Meta(ge=0, le=20)] = 3.0
    doubt_frames: Annotated[int, Meta(ge=1, le=1000)] = 8
    settle_frames: Annotated[int, Meta(ge=0, le=1000)] = 3

    def __post_init__(self) -> None:
        if not self.end_below <= self.begin_at <= self.confirm_at:
            raise ValueError(
                f"end_below, begin_at and confirm_at are {self.end_below}, "
                f"{self.begin_at} and {self.confirm_at}, expected them in rising order"
            )
        if self.doubt_frames < self.confirm_frames:
            raise ValueError(
                f"doubt_frames is {self.doubt_frames}, expected at least "
                f"confirm_frames, {self.confirm_frames}, or nothing is ever confirmed"
            )


class LedgerSettings(_Settings, frozen=True):
    """`folder`: on a local disk; `keep_rows`: acknowledged rows that are kept."""

    folder: Path
    keep_rows: Annotated[int, Meta(ge=1)] = 200_000


class RunSettings(_Settings, frozen=True):
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


class DifferentialSettings(_Settings, frozen=True):
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


class RecordingSettings(_Settings, frozen=True):
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


class CommandSettings(_Settings, frozen=True):
    """What may be asked of the device over MQTT; nothing unless it stands in `allow`.

    `most_age_s`: how long a request may live; `keep_snapshots`: the newest are kept.
    """

    allow: tuple[CommandName, ...] = ()
    most_age_s: Annotated[float, Meta(ge=1, le=3600)] = 60.0
    keep_snapshots: Annotated[int, Meta(ge=1, le=1000)] = 50


class AlarmSettings(_Settings, frozen=True):
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


class DeviceFile(_Settings, frozen=True, kw_only=True):
    """The settings file of a device, for `run` and `publish`."""

    device: Name
    source: SourceSettings
    profile: Path | None = None
    model: ModelSettings = ModelSettings()
    location: LocationSettings = LocationSettings()
    tracking: TrackingSettings | None = None
    sequence: SequenceSettings | None = None
    schedule: ScheduleSettings | None = None
    pauses: PauseSettings = PauseSettings()
    events: EventSettings = EventSettings()
    ledger: LedgerSettings
    run: RunSettings = RunSettings()
    differential: DifferentialSettings = DifferentialSettings()
    recording: RecordingSettings | None = None
    commands: CommandSettings = CommandSettings()
    alarms: AlarmSettings = AlarmSettings()
    broker: BrokerSettings = BrokerSettings()
    publish: PublishSettings = PublishSettings()

    def __post_init__(self) -> None:
        if self.sequence is not None and self.tracking is None:
            raise ValueError(
                "sequence needs tracking: add [tracking], so that cells are followed"
            )


class ReplaySettings(_Settings, frozen=True, kw_only=True):
    """What results depend on beside the frames; lies in each recording."""

    profile: Path | None = None
    model: ModelSettings = ModelSettings()
    location: LocationSettings = LocationSettings()
    tracking: TrackingSettings | None = None
    sequence: SequenceSettings | None = None
    pauses: PauseSettings = PauseSettings()
    events: EventSettings = EventSettings()
    run: RunSettings = RunSettings()
    differential: DifferentialSettings = DifferentialSettings()

    @classmethod
    def of(cls, device: DeviceFile) -> ReplaySettings:
        """Return what a device's results depend on."""
        return cls(**{name: getattr(device, name) for name in cls.__struct_fields__})


class ArchiveSettings(_Settings, frozen=True):
    """`file`: the archive's database; `client_id`: its name at the broker."""

    file: Path
    client_id: str = "archive"


class ArchiveFile(_Settings, frozen=True, kw_only=True):
    """The settings file of the lab server, for `archive`."""

    archive: ArchiveSettings
    broker: BrokerSettings = BrokerSettings()
