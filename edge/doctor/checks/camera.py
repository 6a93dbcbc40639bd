"""The camera: is it there, is it free, and does it show something alive.

While `run` is at work the camera is its own; what `run` says of it is read instead.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np

from edge.artifacts.profile import load_profile
from edge.doctor.device import ExaminedDevice, SettingMissing
from edge.doctor.findings import Finding, fault, fault_of, ok, unknown, warning
from edge.doctor.processes import is_hidden, run_process, users_of
from edge.errors import HemascopeError
from edge.frames import Exposure, Gap, RawFrame, Source, SourceEnded
from edge.monitoring.metrics import read_metrics
from edge.settings.sources import SourceSettings
from edge.slide.quality_gate import QualityGate
from edge.sources.kinds import kind_of
from edge.sources.opening import controls_of, open_source
from edge.stages.image_quality import brightness, saturation

_NODE = re.compile(r"/dev/[\w./:+-]+")
_READ_S = 0.5
_MOST_PATIENCE_S = 20.0
_ENOUGH_S = 5.0  # after the first frame
_NAME = "camera"


def check_camera(subject: ExaminedDevice) -> Iterator[Finding]:
    """Look through the camera, unless `run` does."""
    source, folder = subject.source, subject.ledger.folder
    if kind_of(source).is_simulated:
        yield warning(
            _NAME,
            "a simulated microscope: nothing of what it shows is real",
            "choose the camera in [source], unless you are trying things out",
        )
    if is_hidden(folder):
        yield unknown(
            _NAME, "this user may not see whether run has the camera", "use sudo"
        )
        return
    process = run_process(folder)
    if process is not None:
        yield _as_run_sees_it(process, folder, subject.device)
        return
    broken = [f for node in nodes_of(source) for f in _look_at_node(Path(node))]
    yield from broken
    if not broken:
        yield from _look_through(source, subject)


def nodes_of(source: SourceSettings) -> list[str]:
    """Return the device nodes that settings of a source name."""
    texts = [t for t in msgspec.to_builtins(source, enc_hook=str).values() if t]
    return [node for text in texts for node in _NODE.findall(str(text))]


def _as_run_sees_it(process: int, folder: Path, device: str) -> Finding:
    """Say what the figures of the run process tell."""
    figures = read_metrics(folder)
    who = f"run (process {process}) has it and was not disturbed"
    if figures is None:
        return warning(
            _NAME,
            f"{who}; it gives no figures: it starts, builds engines, or hangs",
            "read `journalctl -u hemascope-run` if this lasts",
        )
    if figures.is_paused:
        return warning(
            _NAME,
            f"{who}; it was told to stop examining",
            f"`hemascope command start --device {device}` lets it go on",
        )
    text = (
        f"{who}: {figures.rate_hz:.1f} results per second, {figures.rejected:,} of "
        f"{figures.rows:,} rejected"
    )
    if figures.rate_hz == 0:
        return warning(
            _NAME,
            f"{text}; none in the last ten seconds",
            "check the camera's cable and power, unless frames are meant to be so rare",
        )
    return ok(_NAME, text)


def _look_at_node(node: Path) -> Iterator[Finding]:
    """Say why a device node cannot be opened, or should not be."""
    try:
        is_device = stat.S_ISCHR(node.stat().st_mode)
    except OSError:
        there = sorted(p.name for p in Path("/dev").glob("video*"))
        yield fault(
            _NAME,
            f"{node} is not there; cameras here: {', '.join(there) or 'none'}",
            "plug the camera in, or choose one that `hemascope cameras` lists",
        )
        return
    if not is_device:
        yield fault(
            _NAME,
            f"{node} is no device",
            "choose a camera that `hemascope cameras` lists",
        )
    elif not os.access(node, os.R_OK | os.W_OK):
        yield fault(
            _NAME,
            f"{node} may not be opened by this user (id {os.getuid()})",
            "join the group: `sudo usermod -aG video $USER`, then log in again",
        )
    elif users := users_of(node):
        yield fault(
            _NAME,
            f"{node} is used by {', '.join(users)}",
            "end that program; a camera delivers to one at a time",
        )


def _look_through(
    settings: SourceSettings, subject: ExaminedDevice
) -> Iterator[Finding]:
    """Open the source and judge its first frames."""
    start_s = time.monotonic()
    try:
        with closing(open_source(settings)) as source:
            frames, took_s = _take(
                source,
                subject.run.frozen_after,
                min(subject.alarms.no_frame_s, _MOST_PATIENCE_S),
            )
            is_live = source.is_live
    except HemascopeError as error:
        yield fault_of(_NAME, error, "check the camera's cable and power")
        return
    if not frames:
        yield fault(
            _NAME,
            f"it opened, but gave no frame within {time.monotonic() - start_s:.0f} s",
            "check the camera's cable and power",
        )
        return
    found = judge(
        frames,
        is_live=is_live,
        frozen_after=subject.run.frozen_after,
        allowed=controls_of(settings).automatic,
    )
    found += _fits(frames[-1], subject)
    yield from found
    if not found:
        height, width = frames[-1].pixels.shape[:2]
        yield ok(
            _NAME,
            f"{frames[-1].shot.source_id}: {width}x{height} px, first frame after "
            f"{took_s:.1f} s, brightness {brightness(frames[-1].pixels):.2f}",
        )


def _take(
    source: Source, count: int, patience_s: float
) -> tuple[list[RawFrame], float]:
    """Return up to `count` frames, and after how many seconds the first came.

    Raises
    ------
    HemascopeError
        A frame is damaged, or the camera went.
    """
    start_s, until_s = time.monotonic(), time.monotonic() + patience_s
    frames: list[RawFrame] = []
    took_s = 0.0
    while len(frames) < count and time.monotonic() < until_s:
        try:
            item = source.read(_READ_S)
        except SourceEnded:
            break
        if isinstance(item, Gap) and item.missed is None:
            raise HemascopeError(item.reason)
        if isinstance(item, Exposure):
            frames.append(item.develop())
            if len(frames) == 1:
                took_s = time.monotonic() - start_s
                until_s = time.monotonic() + _ENOUGH_S
    return frames, took_s


def judge(
    frames: Sequence[RawFrame],
    *,
    is_live: bool,
    frozen_after: int,
    allowed: Sequence[str] = (),
) -> list[Finding]:
    """Say what is wrong with frames that follow each other; [] if nothing.

    Parameters
    ----------
    frames
        At least one.
    is_live
        Of a camera, which never sends the same noise twice.
    frozen_after
        So many identical ones are a frozen picture.
    allowed
        Controls that the camera may change by itself.
    """
    found, limits = [], QualityGate().limits()
    newest = frames[-1].pixels
    light, full = brightness(newest), saturation(newest)
    if light < limits["brightness"]:
        found.append(
            fault(
                _NAME,
                f"the picture is dark: brightness {light:.2f}, expected at least "
                f"{limits['brightness']:.2f}",
                "switch the lamp on, take the cap off, or expose longer",
            )
        )
    if full > limits["saturated"]:
        found.append(
            fault(
                _NAME,
                f"the picture is overexposed: {100 * full:.0f} % of the counts are at "
                f"full scale, expected at most {100 * limits['saturated']:.0f} %",
                "lower the exposure, the gain or the lamp",
            )
        )
    is_frozen = is_live and len(frames) >= frozen_after
    if is_frozen and all(np.array_equal(newest, f.pixels) for f in frames):
        found.append(
            fault(
                _NAME,
                f"the picture is frozen: {len(frames)} frames are identical",
                "unplug the camera and plug it in again",
            )
        )
    return found + _steady(frames[-1], allowed)


def _steady(frame: RawFrame, allowed: Sequence[str]) -> list[Finding]:
    """Say which control of the camera changes, or may, by itself."""
    if frame.shot.doubt is not None:
        found, _, remedy = frame.shot.doubt.rpartition("; ")
        lock = "lock it in [source.controls]"
        return [warning(_NAME, found or remedy, remedy if found else lock)]
    controls = frame.shot.controls
    loose = [n for n in (controls.automatic if controls else ()) if n not in allowed]
    if not loose:
        return []
    return [
        warning(
            _NAME,
            f"the camera changes by itself: {', '.join(loose)}",
            "lock it in [source.controls], or name it there as automatic",
        )
    ]


def _fits(frame: RawFrame, subject: ExaminedDevice) -> list[Finding]:
    """Say where the calibration is of another camera or frame size."""
    try:
        if subject.profile is None:
            return []
        profile = load_profile(subject.profile)
    except (HemascopeError, SettingMissing):  # told by the check of the calibration
        return []
    height, width = frame.pixels.shape[:2]
    try:
        profile.check(width, height, frame.shot.camera)
    except HemascopeError as error:
        return [fault_of(_NAME, error, "check the camera's cable and power")]
    return []
