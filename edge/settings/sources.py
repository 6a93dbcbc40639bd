"""Settings of sources: one class per kind of camera; `kind` chooses one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, field

from edge.schema.pixel_sizes import PixelSizeUm
from edge.schema.results import BalanceName, ControlName, Share
from edge.settings.values import (
    Finite,
    NotNegative,
    Pixels,
    Positive,
    StrictSettings,
)


class SimulatedSettings(StrictSettings, frozen=True, tag_field="kind", tag="simulated"):
    """The simulated microscope. With `rate_hz` 0 frames come as fast as they are read.

    `lamp`: light per channel, 1 is full scale; `lamp_drift_per_h`: change of the lamp
    as a share; `defocus_um`: how far the stage drifts out of focus; `noise`: standard
    deviation in counts; `unplug_every_s`: seconds between losses of the camera, 0 for
    none; `changing`: share of red cells, platelets and neutrophils that swell, burst or
    spread within `changing_within_h`, each in `change_takes_s`.
    `slide_frames`: width and height of the slide, in frames; `is_endless`: the slide
    repeats at its edges, else the stage turns back there.
    """

    width_px: Pixels = 1920
    height_px: Pixels = 1200
    rate_hz: NotNegative = 30.0
    pixel_size_um: PixelSizeUm = 0.07
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


class ControlSettings(StrictSettings, frozen=True):
    """How a camera is set. Its controls are locked, and read back.

    A control that is left out keeps the camera's value, with its automatic turned off
    where the driver allows it. `gain`, `balance` (of colours) and `gamma` are in the
    driver's units. `automatic`: controls that the camera may change by itself.
    """

    exposure_ms: Positive | None = None
    gain: NotNegative | None = None
    white_balance_k: Annotated[float, Meta(ge=1000, le=20_000)] | None = None
    balance: dict[BalanceName, NotNegative] = field(default_factory=dict)
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


class OpenCVSettings(StrictSettings, frozen=True, tag_field="kind", tag="opencv"):
    """A camera or stream that OpenCV reads.

    `device`: a V4L2 path such as /dev/v4l/by-id/…, or an rtsp:// or http:// address.
    `width_px`, `height_px`, `rate_hz` and `fourcc` are set on a V4L2 camera, which must
    then deliver that size; `controls` lock it. `stall_s`: a camera that gives no frame
    for so long is lost.
    """

    device: str
    width_px: Pixels | None = None
    height_px: Pixels | None = None
    rate_hz: Positive | None = None
    fourcc: Annotated[str, Meta(min_length=4, max_length=4)] | None = None
    stall_s: Positive = 5.0
    pixel_size_um: PixelSizeUm | None = None
    controls: ControlSettings = AS_FOUND


class VideoSettings(StrictSettings, frozen=True, tag_field="kind", tag="video"):
    """A video file: a recording, which waits for its reader."""

    path: Path
    pixel_size_um: PixelSizeUm | None = None


class GStreamerSettings(StrictSettings, frozen=True, tag_field="kind", tag="gstreamer"):
    """A GStreamer pipeline, as for gst-launch-1.0 but without the sink.

    `is_live`: false for a file, which then waits for its reader instead of dropping
    frames. `controls` lock the camera of a v4l2src; other cameras are set in the
    pipeline.
    """

    pipeline: str
    is_live: bool = True
    stall_s: Positive = 5.0
    pixel_size_um: PixelSizeUm | None = None
    controls: ControlSettings = AS_FOUND


class FolderSettings(StrictSettings, frozen=True, tag_field="kind", tag="folder"):
    """A folder of images, in the order of their names.

    `rate_hz`: images per second, 0 without pause; `is_repeated`: begin again after the
    last image; `bits`: significant bits in images of 16 bits, often 10 or 12;
    `max_megapixels`: larger images are refused before they take memory.
    """

    path: Path
    rate_hz: NotNegative = 0.0
    is_repeated: bool = False
    pixel_size_um: PixelSizeUm | None = None
    bits: Annotated[int, Meta(ge=8, le=16)] = 16
    max_megapixels: Annotated[float, Meta(gt=0, le=10_000)] = 200.0


class MicroManagerSettings(
    StrictSettings, frozen=True, tag_field="kind", tag="micromanager"
):
    """A camera that Micro-Manager drives, through pymmcore-plus.

    `config`: its configuration file; `adapters`: the folder of its device adapters,
    where pymmcore-plus finds it if absent; `camera`: label of the camera, the
    configuration's own if absent. `presets` (of groups) and `properties` (of devices)
    are set in this order. `buffer_mb`: memory for frames that were not read yet.
    `pixel_size_um`: the configuration's own if absent.
    """

    config: Path
    adapters: Path | None = None
    camera: str | None = None
    presets: dict[str, str] = field(default_factory=dict)
    properties: dict[str, dict[str, str]] = field(default_factory=dict)
    buffer_mb: Annotated[int, Meta(ge=1, le=16384)] = 256
    stall_s: Positive = 5.0
    pixel_size_um: PixelSizeUm | None = None
    controls: ControlSettings = AS_FOUND


class GenICamSettings(StrictSettings, frozen=True, tag_field="kind", tag="genicam"):
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
    pixel_size_um: PixelSizeUm | None = None
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
