"""Any camera that Micro-Manager drives, through pymmcore-plus."""

from __future__ import annotations

import logging
import time
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.clock import utc_of
from edge.errors import FrameRejected
from edge.frames import Counts, Exposure, Gap, RawFrame, Shot, SourceLost
from edge.settings.sources import MicroManagerSettings
from edge.sources.bit_depth import over_16_bits
from edge.sources.camera_controls import ControlRefused, Readback, lock
from edge.sources.micromanager.controls import MicroManagerControls, serial_of
from edge.sources.micromanager.core import CORE_ERRORS, one_line, open_core

log = logging.getLogger(__name__)

_POLL_S = 0.001  # Micro-Manager tells nobody when a frame comes
_MAX_AGE_NS = 5_000_000_000


class MicroManagerSource:
    """One camera of a configuration, in continuous sequence acquisition.

    Frames lie in the core's circular buffer until they are fetched; when nobody does so
    in time the buffer overflows, and the jump in the core's image numbers shows how
    many were lost.
    """

    def __init__(self, settings: MicroManagerSettings) -> None:
        self._settings = settings
        self._core = open_core(settings)
        try:
            self._label = self._choose_camera()
            self._driver = MicroManagerControls(self._core, self._label)
            self._readback = Readback(
                self._driver, lock(self._driver, settings.controls, self._label)
            )
            self._camera = self._identity()
            self._number = -1
            self._start()
        except CORE_ERRORS as error:
            self.close()
            raise SourceLost(f"{self._settings.config}: {one_line(error)}") from error
        except SourceLost:
            self.close()
            raise

    @property
    def is_live(self) -> bool:
        """A camera goes on without us."""
        return True

    def read(self, timeout_s: float) -> Exposure | Gap | None:
        """Return the next frame; see `Source.read`."""
        deadline_s = time.monotonic() + timeout_s
        try:
            while self._core.getRemainingImageCount() == 0:
                left_s = deadline_s - time.monotonic()
                self._refuse_silence()
                if left_s <= 0:
                    return None
                time.sleep(min(_POLL_S, left_s))
            pixels, metadata = self._core.popNextImageAndMD(fix=False)
        except CORE_ERRORS as error:
            raise SourceLost(f"{self._camera}: {one_line(error)}; check it") from error
        self._last_frame_s = time.monotonic()
        controls = self._readback.now()
        exposure_ms = 0.0 if controls is None else controls.exposure_ms or 0.0
        taken_ns = self._taken_ns(metadata.get("ElapsedTime-ms"), exposure_ms)
        self._number = int(metadata.get("ImageNumber", self._number + 1))
        shot = Shot(
            sequence=self._number,
            monotonic_ns=taken_ns,
            utc=utc_of(taken_ns),
            source_id=f"micromanager:{self._label}",
            camera=self._camera,
            controls=controls,
            pixel_size_um=self._pixel_size_um,
        )
        components, bits = self._components, self._bits
        return Exposure(shot, lambda: RawFrame(shot, to_rgb(pixels, components, bits)))

    def close(self) -> None:
        """Stop the sequence and unload all devices. Safe to call twice."""
        try:
            if self._core.isSequenceRunning():
                self._core.stopSequenceAcquisition()
            self._core.unloadAllDevices()
        except CORE_ERRORS as error:
            log.warning(
                "config=%s not closed: %s", self._settings.config, one_line(error)
            )

    def _choose_camera(self) -> str:
        core, wanted = self._core, self._settings.camera
        if wanted is not None:
            if wanted not in core.getLoadedDevices():
                raise ControlRefused(
                    f"{self._settings.config}: holds no device {wanted!r}, it holds "
                    f"{', '.join(core.getLoadedDevices())}"
                )
            core.setCameraDevice(wanted)
        label = str(core.getCameraDevice())
        if not label:
            raise ControlRefused(
                f"{self._settings.config}: names no camera; write camera in [source]"
            )
        return label

    def _start(self) -> None:
        core = self._core
        core.setCircularBufferMemoryFootprint(self._settings.buffer_mb)
        self._components = int(core.getNumberOfComponents())
        self._bits = int(core.getImageBitDepth())
        self._pixel_size_um = self._settings.pixel_size_um or (
            core.getPixelSizeUm() or None
        )
        self._start_ns = time.monotonic_ns()
        core.startContinuousSequenceAcquisition(0)
        self._last_frame_s = time.monotonic()

    def _identity(self) -> str:
        core, label = self._core, self._label
        name = f"{core.getDeviceLibrary(label)}/{core.getDeviceName(label)}"
        return f"{name} {serial_of(core, label)}".strip()

    def _taken_ns(self, elapsed_ms: str | None, exposure_ms: float) -> int:
        """Start of exposure: the core stamps a frame when it has arrived."""
        now_ns = time.monotonic_ns()
        if elapsed_ms is None:
            return now_ns
        taken_ns = self._start_ns + int((float(elapsed_ms) - exposure_ms) * 1e6)
        return taken_ns if 0 <= now_ns - taken_ns < _MAX_AGE_NS else now_ns

    def _refuse_silence(self) -> None:
        if not self._core.isSequenceRunning(self._label):
            raise SourceLost(
                f"{self._camera}: has ended its sequence by itself; check cable and "
                "power"
            )
        if time.monotonic() - self._last_frame_s > self._settings.stall_s:
            raise SourceLost(
                f"{self._camera}: no frame for {self._settings.stall_s} s; check cable "
                "and power, and that stall_s is longer than the exposure"
            )


def to_rgb(pixels: NDArray[Any], components: int, bits: int) -> Counts:
    """Turn what Micro-Manager gives into RGB.

    Parameters
    ----------
    pixels
        (H, W): uint8 or uint16 of a monochrome camera; uint32 or uint64 hold blue,
        green, red and nothing of a colour camera.
    components
        1 or 4, as the core says.
    bits
        That a count has; more than 8 are spread over 16.

    Raises
    ------
    FrameRejected
        Counts of another kind.
    """
    if components == 4 and pixels.dtype in (np.uint32, np.uint64):
        half = np.uint8 if pixels.dtype == np.uint32 else np.uint16
        counts: Counts = pixels.view(half).reshape(*pixels.shape, 4)
        conversion = cv2.COLOR_BGRA2RGB
    elif components == 1 and pixels.dtype in (np.uint8, np.uint16):
        counts, conversion = pixels, cv2.COLOR_GRAY2RGB
    else:
        raise FrameRejected(
            f"frame of {components} components in {pixels.dtype}, expected 8 or 16 "
            "bits of grey, or 32 or 64 of colour; set the camera's PixelType"
        )
    return np.asarray(cv2.cvtColor(over_16_bits(counts, bits), conversion))
