"""Any GStreamer pipeline, through an appsink, with the buffers' own timestamps."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.clock import utc_of
from edge.errors import ConfigurationInvalid, FrameRejected
from edge.frames import Exposure, Gap, RawFrame, Shot, SourceEnded, SourceLost
from edge.import_faults import library_fault
from edge.settings.sources import AS_FOUND, GStreamerSettings
from edge.sources.camera_controls import ControlRefused
from edge.sources.frame_numbers import number_by_time
from edge.sources.gstreamer.jpeg_check import DamagedJpeg, JpegCheck
from edge.sources.redaction import without_secrets
from edge.sources.v4l2 import LockedDevice, identity

_OPEN_S = 10.0


def _gstreamer() -> Any:
    """Import GStreamer's bindings; they come from the system or from PyGObject."""
    try:
        import gi

        gi.require_version("Gst", "1.0")
        gi.require_version("GstApp", "1.0")
        from gi.repository import Gst, GstApp  # noqa: F401 GstApp types the appsink
    except (ImportError, ValueError) as error:
        raise ConfigurationInvalid(
            f"GStreamer is not available to Python ({library_fault(error) or error}); "
            "install the packages gstreamer1.0-plugins-good and python3-gi, or run "
            "`pip install '.[gstreamer]'` in the project's folder"
        ) from error
    Gst.init(None)
    return Gst


class GStreamerSource:
    """One pipeline that ends in RGB frames.

    The sink holds two frames and drops the older when live. Numbers are the driver's
    where the source sets the buffer offset (v4l2src does), else counted by timestamp.
    A JPEG that is damaged does not reach the pipeline's decoder: see `JpegCheck`.
    """

    def __init__(self, settings: GStreamerSettings) -> None:
        self._gst = _gstreamer()
        self._settings = settings
        self._name = without_secrets(settings.pipeline)
        self._camera = self._name.split("!")[0].strip()
        drop = "true" if settings.is_live else "false"
        text = (
            f"{settings.pipeline} ! videoconvert ! video/x-raw,format=RGB ! "
            f"appsink name=hemascope max-buffers=2 drop={drop} sync=false"
        )
        try:
            self._pipeline = self._gst.parse_launch(text)
        except Exception as error:
            raise ConfigurationInvalid(
                f"pipeline {self._name!r}: {error}; try it with gst-launch-1.0"
            ) from error
        self._sink = self._pipeline.get_by_name("hemascope")
        self._locked = self._lock()
        self._jpegs = JpegCheck(self._gst, self._pipeline, self._camera)
        self._waiting: Any = None  # a sample that a damaged frame comes before
        self._last: tuple[int, float] | None = None
        self._last_frame_s = time.monotonic() + _OPEN_S
        self._pipeline.set_state(self._gst.State.PLAYING)
        self._raise_if_broken()

    @property
    def is_live(self) -> bool:
        """As the settings say."""
        return self._settings.is_live

    def read(self, timeout_s: float) -> Exposure | Gap | None:
        """Return the next frame; see `Source.read`."""
        wait_s = self._jpegs.longest_wait_s(timeout_s)
        sample, self._waiting = self._waiting or self._pull(wait_s), None
        damaged = self._jpegs.take_damaged(
            None if sample is None else sample.get_buffer().pts
        )
        if damaged is not None:
            self._waiting = sample
            return self._refused(damaged)
        if sample is None:
            self._raise_if_over()
            return None
        self._last_frame_s = time.monotonic()
        taken_ns = self._taken_ns(sample.get_buffer().pts)
        shot = self._shot(self._number(sample), taken_ns)
        notes = self._jpegs.notes
        filler = self._jpegs.take_filler_bytes(sample.get_buffer().pts)
        return Exposure(
            shot, lambda: RawFrame(shot, self._pixels(sample), notes, filler)
        )

    def close(self) -> None:
        """Stop the pipeline."""
        self._pipeline.set_state(self._gst.State.NULL)
        if self._locked is not None:
            self._locked.close()

    def _pull(self, timeout_s: float) -> Any:
        return self._sink.emit("try-pull-sample", int(timeout_s * self._gst.SECOND))

    def _refused(self, damaged: DamagedJpeg) -> Exposure:
        """Return the exposure of a JPEG that was taken out of the pipeline."""
        self._last_frame_s = time.monotonic()
        taken_ns = self._taken_ns(damaged.place.pts)

        def refuse() -> RawFrame:
            raise FrameRejected(damaged.reason)

        number = self._number_by_rate(damaged.rate, damaged.place.pts)
        return Exposure(self._shot(number, taken_ns), refuse)

    def _shot(self, number: int, taken_ns: int) -> Shot:
        return Shot(
            sequence=number,
            monotonic_ns=taken_ns,
            utc=utc_of(taken_ns),
            source_id=f"gstreamer:{self._camera}",
            camera=self._camera if self.is_live else None,
            controls=None if self._locked is None else self._locked.now(),
            pixel_size_um=self._settings.pixel_size_um,
        )

    def _raise_if_over(self) -> None:
        """Say why no frame comes, where it is known that none will."""
        self._raise_if_broken()
        if self._sink.get_property("eos"):
            if self.is_live:
                raise SourceLost(
                    f"pipeline {self._name!r}: the camera ended the stream; check "
                    "the camera"
                )
            raise SourceEnded(f"pipeline {self._name!r} is over")
        if time.monotonic() - self._last_frame_s > self._settings.stall_s:
            raise SourceLost(
                f"pipeline {self._name!r}: no frame for "
                f"{self._settings.stall_s} s; check the camera"
            )

    def _lock(self) -> LockedDevice | None:
        """Lock the V4L2 camera of the pipeline; None if it has none."""
        found = self._pipeline.iterate_all_by_element_factory_name("v4l2src").next()
        if found[0] == self._gst.IteratorResult.OK:
            device = found[1].get_property("device")
            self._camera = identity(device)
            return LockedDevice(device, self._settings.controls, self._camera)
        if self._settings.controls != AS_FOUND:
            raise ControlRefused(
                f"pipeline {self._name!r}: only v4l2src can be locked here; set the "
                "camera by properties in the pipeline, leave [source.controls] out"
            )
        return None

    def _taken_ns(self, pts: int) -> int:
        """Start of exposure on the monotonic clock, which is the pipeline's own."""
        now_ns = time.monotonic_ns()
        if not self.is_live or pts == self._gst.CLOCK_TIME_NONE:
            return now_ns
        taken_ns: int = self._pipeline.get_base_time() + pts
        return min(taken_ns, now_ns)

    def _number(self, sample: Any) -> int:
        buffer = sample.get_buffer()
        fresh = buffer.offset != self._gst.BUFFER_OFFSET_NONE
        if fresh and (self._last is None or buffer.offset > self._last[0]):
            self._last = (int(buffer.offset), self._stamp_s(buffer.pts))
            return self._last[0]
        known, *rate = sample.get_caps().get_structure(0).get_fraction("framerate")
        return self._number_by_rate((rate[0], rate[1]) if known else (0, 1), buffer.pts)

    def _number_by_rate(self, rate: tuple[int, int], pts: int) -> int:
        """Return the number of a frame by its time, at frames per seconds `rate`."""
        period_s = rate[1] / rate[0] if rate[0] else None
        stamp_s = self._stamp_s(pts)
        number = number_by_time(self._last, stamp_s, period_s)
        self._last = (number, stamp_s)
        return number

    def _stamp_s(self, pts: int) -> float:
        """Return the time that tells which frames are missing before this one.

        That is the pipeline's: a recording waits, so that our own clock says nothing.
        Where a recording has none, no time has passed, and the frame is the next one.
        """
        if pts != self._gst.CLOCK_TIME_NONE:
            return pts * 1e-9
        if self.is_live:
            return time.monotonic()
        return 0.0 if self._last is None else self._last[1]

    def _pixels(self, sample: Any) -> NDArray[np.uint8]:
        """Return a copy (H, W, 3) uint8 RGB, without the bytes that fill rows up."""
        shape = sample.get_caps().get_structure(0)
        width, height = shape.get_value("width"), shape.get_value("height")
        buffer = sample.get_buffer()
        mapped, info = buffer.map(self._gst.MapFlags.READ)
        if not mapped or info.size < height * width * 3:
            raise FrameRejected(
                f"buffer of {info.size if mapped else 0} bytes for {width}x{height} "
                "RGB; the pipeline delivers less than it promises"
            )
        try:
            rows = np.frombuffer(info.data, np.uint8).reshape(height, -1)
            pixels = rows[:, : width * 3].reshape(height, width, 3)
            return np.array(pixels)
        finally:
            buffer.unmap(info)

    def _raise_if_broken(self) -> None:
        message = self._pipeline.get_bus().pop_filtered(self._gst.MessageType.ERROR)
        if message is not None:
            error, detail = message.parse_error()
            self.close()
            raise SourceLost(
                f"pipeline {self._name!r}: {error.message}; "
                f"{(detail or '').splitlines()[-1] if detail else 'check the camera'}"
            )
