"""Cameras, network streams and video files through OpenCV."""

from __future__ import annotations

import logging
import os
import time
from math import ceil
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.clock import utc_of
from edge.errors import FrameRejected
from edge.frames import Counts, Exposure, Gap, RawFrame, Shot, SourceEnded, SourceLost
from edge.settings.sources import AS_FOUND, OpenCVSettings
from edge.sources.camera_controls import ControlRefused
from edge.sources.frame_numbers import number_by_time
from edge.sources.image_files import decode_picture
from edge.sources.opencv.jpegs import coding_of, take_undecoded
from edge.sources.opencv.video_length import announced_frames
from edge.sources.redaction import without_secrets
from edge.sources.v4l2 import LockedDevice, identity

log = logging.getLogger(__name__)

_ADDRESS = "://"


class OpenCVSource:
    """One `cv2.VideoCapture`.

    OpenCV does not pass on the driver's frame numbers, so frames of a camera or stream
    are numbered by their timestamps: a pause of n periods is a jump of n. Motion JPEG
    is decoded only for frames that somebody looks at, and refused where it is damaged.
    The controls of a V4L2 camera are locked and read back through the kernel, see
    `edge.sources.v4l2`. Where a video file holds fewer frames than its header
    announces, a gap at its end says so.
    """

    def __init__(self, settings: OpenCVSettings) -> None:
        self._settings = settings
        self._name = without_secrets(settings.device)
        self._is_stream = _ADDRESS in settings.device
        self._is_camera = not self._is_stream and _is_device(settings.device)
        if not self._is_camera and settings.controls != AS_FOUND:
            raise ControlRefused(
                f"{self._name}: only a V4L2 camera can be locked here; set a network "
                "camera on its own page and leave [source.controls] out"
            )
        self._camera = identity(settings.device) if self._is_camera else None
        self._capture = self._open()
        self._locked: LockedDevice | None = None
        if self._is_camera:
            try:
                self._locked = LockedDevice(
                    settings.device, settings.controls, self._name
                )
            except SourceLost:
                self.close()
                raise
        self._notes = take_undecoded(
            self._capture, self._name, is_camera=self._is_camera
        )
        self._height_px = int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        self._period_s = self._period()
        self._last: tuple[int, float] | None = None
        self._announced = (
            None
            if self.is_live
            else announced_frames(Path(settings.device), self._capture)
        )

    @property
    def is_live(self) -> bool:
        """Cameras and streams go on without us, a file waits."""
        return self._is_camera or self._is_stream

    def read(self, timeout_s: float) -> Exposure | Gap | None:
        """Return the next frame; waits up to `stall_s` for it. See `Source.read`."""
        arrived, data = self._capture.read()
        if not arrived:
            if not self.is_live:
                return self._end()
            raise SourceLost(
                f"{self._name}: no frame for {self._settings.stall_s} s; "
                "check cable, power and whether another program uses the camera"
            )
        now_ns = time.monotonic_ns()
        taken_ns = self._taken_ns(now_ns)
        sequence = self._number(taken_ns)
        shot = Shot(
            sequence=sequence,
            monotonic_ns=taken_ns if self._is_camera else now_ns,
            utc=utc_of(taken_ns if self._is_camera else now_ns),
            source_id=f"opencv:{self._name}",
            camera=self._camera,
            controls=None if self._locked is None else self._locked.now(),
            pixel_size_um=self._settings.pixel_size_um,
        )
        return Exposure(shot, lambda: self._develop(data, shot))

    def close(self) -> None:
        """Release the device."""
        self._capture.release()
        if self._locked is not None:
            self._locked.close()

    def _end(self) -> Gap:
        """Say once how many frames of a file are missing, and then that it is over.

        Raises
        ------
        SourceEnded
            No frame is missing, or it was said.
        """
        given = 0 if self._last is None else self._last[0] + 1  # and gaps in between
        announced, self._announced = self._announced, None
        if announced is None or announced <= given:
            raise SourceEnded(f"{self._name}: the video is over")
        now_ns = time.monotonic_ns()
        reason = (
            f"{self._name}: its header announces {announced} frames, {given} could be "
            "read: it is cut short or damaged; copy it again"
        )
        return Gap(given, announced - given, reason, now_ns, utc_of(now_ns))

    def _open(self) -> cv2.VideoCapture:
        settings = self._settings
        stall_ms = int(settings.stall_s * 1000)
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, stall_ms]
        limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, stall_ms]
        if self._is_camera:  # OpenCV reads this limit, in whole seconds, when it waits
            os.environ["OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT"] = str(
                ceil(settings.stall_s)
            )
            capture = cv2.VideoCapture(settings.device, cv2.CAP_V4L2)
        elif self._is_stream:
            capture = cv2.VideoCapture(settings.device, cv2.CAP_FFMPEG, limits)
        else:
            if not Path(settings.device).is_file():
                raise SourceLost(
                    f"{self._name}: no such camera or file; list cameras with "
                    "`ls /dev/v4l/by-id`"
                )
            capture = cv2.VideoCapture(settings.device, cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise SourceLost(
                f"{self._name}: cannot be opened; check that it is connected, "
                "that you may read it (group video) and that no other program uses it"
            )
        if self._is_camera:
            self._configure(capture)
        return capture

    def _configure(self, capture: cv2.VideoCapture) -> None:
        """Ask the camera for size, rate and coding, and insist on the size."""
        settings = self._settings
        if settings.fourcc is not None:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*settings.fourcc))
        asked = {
            cv2.CAP_PROP_FRAME_WIDTH: settings.width_px,
            cv2.CAP_PROP_FRAME_HEIGHT: settings.height_px,
            cv2.CAP_PROP_FPS: settings.rate_hz,
        }
        for key, value in asked.items():
            if value is not None:
                capture.set(key, value)
        given = [int(capture.get(k)) for k in list(asked)[:2]]
        wanted = [settings.width_px or given[0], settings.height_px or given[1]]
        if given != wanted:
            capture.release()
            raise SourceLost(
                f"{self._name}: delivers {given[0]}x{given[1]} px, asked for "
                f"{wanted[0]}x{wanted[1]}; choose a size that `v4l2-ctl "
                "--list-formats-ext` lists"
            )
        coding = coding_of(capture)
        if settings.fourcc is not None and coding != settings.fourcc.strip():
            log.warning(
                "camera=%s coding=%r, asked for %r", self._name, coding, settings.fourcc
            )

    def _period(self) -> float | None:
        rate = self._settings.rate_hz or self._capture.get(cv2.CAP_PROP_FPS)
        return 1 / rate if rate and 0 < rate < 1000 else None

    def _taken_ns(self, now_ns: int) -> int:
        """Return the driver's time stamp; a stream's is on another clock than ours."""
        stamp_ns = int(self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
        if self._is_camera and not 0 <= now_ns - stamp_ns < 5_000_000_000:
            return now_ns
        return stamp_ns

    def _number(self, taken_ns: int) -> int:
        taken_s = taken_ns * 1e-9
        sequence = number_by_time(self._last, taken_s, self._period_s)
        self._last = (sequence, taken_s)
        return sequence

    def _develop(self, data: NDArray[np.uint8], shot: Shot) -> RawFrame:
        """Decode (H, W, 3) uint8 BGR, or the bytes (1, N) or (N, 1) uint8 of a JPEG."""
        if data.ndim == 3 and data.shape[2] == 3:
            return RawFrame(shot, cv2.cvtColor(data, cv2.COLOR_BGR2RGB), self._notes)
        if min(data.shape[:2]) == 1:  # undecoded Motion JPEG, one long row
            picture = decode_picture(data.tobytes(), shot.source_id)
            self._refuse_half(picture.pixels, shot.source_id)
            return RawFrame(
                shot, picture.pixels, picture.notes, filler_bytes=picture.filler_bytes
            )
        raise FrameRejected(
            f"{shot.source_id}: frame of shape {data.shape}; expected colour (H, W, 3)"
        )

    def _refuse_half(self, pixels: Counts, name: str) -> None:
        """Refuse a JPEG that holds every second row of a frame of a file or stream.

        Raises
        ------
        FrameRejected
            The video is interlaced: the other rows are in a JPEG behind this one.
        """
        if not self._is_camera and 2 * pixels.shape[0] == self._height_px:
            raise FrameRejected(
                f"{name}: the video is interlaced, half of {self._height_px} rows are "
                "in a JPEG; convert it to progressive video"
            )


def _is_device(device: str) -> bool:
    return Path(device).is_char_device()
