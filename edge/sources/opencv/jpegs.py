"""Have OpenCV hand out Motion JPEG as it came, so that our own decoder sees damage.

OpenCV and ffmpeg fill up what is missing in a JPEG, and say nothing. Whichever way it
was agreed on, by the settings or by OpenCV itself, each JPEG is taken undecoded.
"""

from __future__ import annotations

import logging

import cv2

log = logging.getLogger(__name__)

_JPEGS = ("MJPG", "JPEG")
_UNDECODED = -1  # CAP_PROP_FORMAT, of the ffmpeg backend
_NOT_CHECKED = "damage of its JPEGs could not be looked for, as OpenCV decodes them"


def take_undecoded(
    capture: cv2.VideoCapture, name: str, *, is_camera: bool
) -> tuple[str, ...]:
    """Ask an open camera, stream or file for undecoded JPEGs, where it has any.

    Parameters
    ----------
    capture
        By the V4L2 backend for a camera, by ffmpeg's for others.
    name
        For the log.
    is_camera
        Whether it is a V4L2 camera.

    Returns
    -------
    tuple[str, ...]
        What is to be noted of each frame: that OpenCV decodes JPEGs nevertheless.
    """
    coding = coding_of(capture)
    if coding not in _JPEGS:
        log.info("source=%s coding=%r: damage inside is not seen", name, coding)
        return ()
    if _is_undecoded(capture, is_camera):
        return ()
    log.warning("source=%s %s", name, _NOT_CHECKED)
    return (_NOT_CHECKED,)


def coding_of(capture: cv2.VideoCapture) -> str:
    """Return the four characters of the coding that is delivered; empty if unknown."""
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    if not 0 < code < 2**32:
        return ""
    return code.to_bytes(4, "little").decode("latin-1").strip("\0 ")


def _is_undecoded(capture: cv2.VideoCapture, is_camera: bool) -> bool:
    """Turn OpenCV's decoder off; say whether it is off."""
    if is_camera:
        capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
        return bool(capture.get(cv2.CAP_PROP_CONVERT_RGB) == 0)
    if capture.get(cv2.CAP_PROP_ORIENTATION_META):
        return False  # only its own decoder turns the picture
    capture.set(cv2.CAP_PROP_FORMAT, _UNDECODED)
    return bool(capture.get(cv2.CAP_PROP_FORMAT) == _UNDECODED)
