"""Industrial cameras that speak GenICam, over GigE Vision or USB3 Vision, by Aravis."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from edge.clock import utc_of
from edge.errors import FrameRejected
from edge.frames import Exposure, Gap, RawFrame, Shot, SourceLost
from edge.settings.sources import GenICamSettings
from edge.sources.camera_controls import ControlRefused, Readback, lock
from edge.sources.frame_numbers import number_by_id
from edge.sources.genicam.controls import GenICamControls
from edge.sources.genicam.discovery import aravis, failure, open_camera
from edge.sources.genicam.pixel_formats import PIXEL_FORMATS, to_rgb

log = logging.getLogger(__name__)

_BUFFERS = 8
_MAX_AGE_NS = 5_000_000_000


class GenICamSource:
    """One camera, free running.

    Buffers are given to whoever develops the frame, and a fresh one to the stream, so
    that a frame nobody looks at is not copied. Frame ids are the camera's.
    """

    def __init__(self, settings: GenICamSettings) -> None:
        self._settings, self._aravis = settings, aravis()
        self._failure = failure()
        self._complete = self._aravis.BufferStatus.SUCCESS
        self._lost: list[str] = []
        self._device: Any = None
        self._stream: Any = None
        self._readback: Readback | None = None
        self._handler = self._payload = 0
        self._last: tuple[int, int] | None = None
        self._last_frame_s = time.monotonic()
        try:
            self._device = open_camera(self._aravis, settings.camera)
            self._name = self._camera_name()
            self._configure()
            driver = GenICamControls(self._device, self._aravis, self._failure)
            self._readback = Readback(
                driver, lock(driver, settings.controls, self._name)
            )
            self._start()
        except self._failure as error:
            name = settings.camera or "the camera"
            self.close()
            raise SourceLost(
                f"{name}: {error}; check cable and power, its address, and whether "
                "another program uses it"
            ) from error
        except SourceLost:
            self.close()
            raise

    @property
    def is_live(self) -> bool:
        """A camera goes on without us."""
        return True

    def read(self, timeout_s: float) -> Exposure | Gap | None:
        """Return the next frame; see `Source.read`."""
        buffer = self._stream.timeout_pop_buffer(int(timeout_s * 1e6))
        if self._lost:
            raise SourceLost(f"{self._name}: does not answer; check cable and power")
        if buffer is None:
            if time.monotonic() - self._last_frame_s > self._settings.stall_s:
                self._lost.append("silent")  # asking it to stop would take seconds
                raise SourceLost(
                    f"{self._name}: no frame for {self._settings.stall_s} s; check "
                    "cable and power, and that stall_s is longer than the exposure"
                )
            return None
        self._last_frame_s = time.monotonic()
        self._stream.push_buffer(self._aravis.Buffer.new_allocate(self._payload))
        controls = None if self._readback is None else self._readback.now()
        exposure_ms = 0.0 if controls is None else controls.exposure_ms or 0.0
        taken_ns = _taken_ns(buffer.get_system_timestamp(), exposure_ms)
        frame_id = self._id_of(buffer)
        if frame_id is None:  # the first ever; nobody misses it
            return None
        self._last = number_by_id(self._last, frame_id)
        shot = Shot(
            sequence=self._last[0],
            monotonic_ns=taken_ns,
            utc=utc_of(taken_ns),
            source_id=f"genicam:{self._name}",
            camera=self._name,
            controls=controls,
            pixel_size_um=self._settings.pixel_size_um,
        )
        return Exposure(shot, lambda: _develop(buffer, self._complete, shot))

    def close(self) -> None:
        """Stop and release the camera. Safe to call twice."""
        resources = [self._stream, self._readback, self._device]
        device, self._device = self._device, None
        self._stream = self._readback = None
        if device is None:
            return
        if self._handler:
            device.get_device().disconnect(self._handler)
        if self._lost:  # releasing it waits seconds for an answer: do so in a thread
            del device
            threading.Thread(
                target=resources.clear, name="release", daemon=True
            ).start()
            return
        try:
            device.stop_acquisition()
        except self._failure as error:
            log.warning("camera not stopped: %s", error)

    def _id_of(self, buffer: Any) -> int | None:
        """Return the frame's id; the next one where its first packet is missing."""
        frame_id = int(buffer.get_frame_id())
        if frame_id == 0 and buffer.get_status() != self._complete:
            return None if self._last is None else self._last[1] + 1
        return frame_id

    def _camera_name(self) -> str:
        camera = self._device
        parts = (
            camera.get_vendor_name(),
            camera.get_model_name(),
            camera.get_device_serial_number() or camera.get_device_id(),
        )
        return "-".join(part for part in parts if part)

    def _configure(self) -> None:
        """Set size, format and rate; insist on size and format."""
        camera, settings = self._device, self._settings
        camera.clear_triggers()
        camera.set_acquisition_mode(self._aravis.AcquisitionMode.CONTINUOUS)
        if settings.pixel_format is not None:
            self._set_format(settings.pixel_format)
        if camera.get_pixel_format() not in PIXEL_FORMATS:
            self._refuse_format(camera.get_pixel_format_as_string())
        self._set_size()
        if settings.rate_hz is not None:
            camera.set_frame_rate(settings.rate_hz)

    def _set_size(self) -> None:
        camera, settings = self._device, self._settings
        before = camera.get_region()
        width = settings.width_px or before.width
        height = settings.height_px or before.height
        if (width, height) != (before.width, before.height):
            camera.set_region(-1, -1, width, height)
        given = camera.get_region()
        widest, highest = camera.get_width_bounds()[1], camera.get_height_bounds()[1]
        is_had = (given.width, given.height) == (width, height)
        if not is_had or width > widest or height > highest:
            raise ControlRefused(
                f"{self._name}: {width}x{height} px cannot be had, it gives "
                f"{given.width}x{given.height} and at most {widest}x{highest}, in "
                "steps; `arv-tool-0.8 control Width Height` shows them"
            )

    def _set_format(self, name: str) -> None:
        if name not in self._device.dup_available_pixel_formats_as_strings():
            self._refuse_format(name)
        self._device.set_pixel_format_from_string(name)

    def _refuse_format(self, name: str) -> None:
        offered = self._device.dup_available_pixel_formats()
        known = [PIXEL_FORMATS[code].name for code in offered if code in PIXEL_FORMATS]
        raise ControlRefused(
            f"{self._name}: pixel format {name} cannot be read here; set pixel_format "
            f"to one of {', '.join(known) or 'none that this camera has'}"
        )

    def _start(self) -> None:
        camera, lost = self._device, self._lost
        self._payload = camera.get_payload()
        self._handler = camera.get_device().connect(
            "control-lost", lambda *_: lost.append("lost")
        )
        self._stream = camera.create_stream(None, None)
        for _ in range(_BUFFERS):
            self._stream.push_buffer(self._aravis.Buffer.new_allocate(self._payload))
        camera.start_acquisition()
        self._last_frame_s = time.monotonic()


def _develop(buffer: Any, complete: Any, shot: Shot) -> RawFrame:
    status = buffer.get_status()
    if status != complete:
        name = status.value_nick.replace("-", " ")
        raise FrameRejected(
            f"frame incomplete: {name}; on a network use jumbo frames and a cable of "
            "its own, or a lower rate_hz"
        )
    width, height = buffer.get_image_width(), buffer.get_image_height()
    code = int(buffer.get_image_pixel_format())
    return RawFrame(shot, to_rgb(buffer.get_data(), width, height, code))


def _taken_ns(arrived_ns: int, exposure_ms: float) -> int:
    """Start of exposure; `arrived_ns` is of the host's real-time clock."""
    now_ns = time.monotonic_ns()
    age_ns = time.time_ns() - arrived_ns + int(exposure_ms * 1e6)
    return now_ns - age_ns if 0 <= age_ns < _MAX_AGE_NS else now_ns
