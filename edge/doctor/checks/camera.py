"""The camera: whether it is there and free, and whether its picture is usable.

While `run` uses the camera it is not opened; the figures of `run` are read instead.
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
from edge.doctor.findings import Finding, fault, fault_from, ok, unknown, warning
from edge.doctor.processes import may_not_see_processes, run_process, users_of
from edge.errors import HemascopeError
from edge.frames import Counts, Exposure, Gap, RawFrame, Source, SourceEnded
from edge.monitoring.metrics import read_metrics
from edge.pipeline.quality_gate import QualityGate
from edge.settings.sources import SourceSettings
from edge.sources.kinds import kind_of
from edge.sources.opening import controls_of, open_source
from edge.stages.image_quality import brightness, saturation

_NODE = re.compile(r"/dev/[\w./:+-]+")
_READ_S = 0.5
_MAX_WAIT_S = 20.0  # for the first frame
_MAX_READ_S = 5.0  # for all others
_NAME = "camera"


def check_camera(device: ExaminedDevice) -> Iterator[Finding]:
    """Check the camera and its picture."""
    source, folder = device.source, device.ledger.folder
    if kind_of(source).is_simulated:
        yield warning(
            _NAME,
            "the source is a simulated microscope: its cells are not real",
            "choose a camera in [source], unless this is a trial",
        )
    if may_not_see_processes(folder):
        yield unknown(
            _NAME,
            "this user may not see whether run uses the camera",
            "run doctor with sudo",
        )
        return
    process = run_process(folder)
    if process is not None:
        yield _from_run_figures(process, folder, device.name)
        return
    problems = [f for node in nodes_of(source) for f in _check_node(Path(node))]
    yield from problems
    if not problems:
        yield from _check_frames(source, device)


def nodes_of(source: SourceSettings) -> list[str]:
    """Return the device nodes, such as /dev/video0, that a source's settings name."""
    texts = [t for t in msgspec.to_builtins(source, enc_hook=str).values() if t]
    return [node for text in texts for node in _NODE.findall(str(text))]


def _from_run_figures(process: int, folder: Path, device_name: str) -> Finding:
    """Return how the run process gets on with the camera, by its figures."""
    figures = read_metrics(folder)
    who = f"run (process {process}) uses it and was not disturbed"
    if figures is None:
        return warning(
            _NAME,
            f"{who}; it reports no figures: it is starting, builds engines, or hangs",
            "read `journalctl -u hemascope-run` if this lasts",
        )
    if figures.is_paused:
        return warning(
            _NAME,
            f"{who}; it is paused",
            f"run `hemascope command start --device {device_name}` to continue",
        )
    text = (
        f"{who}: {figures.rate_hz:.1f} results per second, {figures.rejected:,} of "
        f"{figures.rows:,} rejected"
    )
    if figures.rate_hz == 0:
        return warning(
            _NAME,
            f"{text}; none in the last ten seconds",
            "check the camera's cable and power, unless frames are planned so rarely",
        )
    return ok(_NAME, text)


def _check_node(node: Path) -> Iterator[Finding]:
    """Check whether a device node can be opened and is not in use."""
    try:
        is_device = stat.S_ISCHR(node.stat().st_mode)
    except OSError:
        cameras = sorted(p.name for p in Path("/dev").glob("video*"))
        yield fault(
            _NAME,
            f"{node} does not exist; cameras here: {', '.join(cameras) or 'none'}",
            "plug the camera in, or choose one that `hemascope cameras` lists",
        )
        return
    if not is_device:
        yield fault(
            _NAME,
            f"{node} is not a device",
            "choose a camera that `hemascope cameras` lists",
        )
    elif not os.access(node, os.R_OK | os.W_OK):
        yield fault(
            _NAME,
            f"this user (id {os.getuid()}) may not open {node}",
            "run `sudo usermod -aG video $USER`, then log in again",
        )
    elif users := users_of(node):
        yield fault(
            _NAME,
            f"{node} is used by {', '.join(users)}",
            "end that program: only one program at a time can use a camera",
        )


def _check_frames(
    settings: SourceSettings, device: ExaminedDevice
) -> Iterator[Finding]:
    """Open the source and judge its first frames."""
    start_s = time.monotonic()
    try:
        with closing(open_source(settings)) as source:
            frames, first_after_s = _read_frames(
                source,
                device.run.frozen_after,
                min(device.alarms.no_frame_s, _MAX_WAIT_S),
            )
            is_live = source.is_live
    except HemascopeError as error:
        yield fault_from(_NAME, error, "check the camera's cable and power")
        return
    if not frames:
        yield fault(
            _NAME,
            f"it opened, but no frame came within {time.monotonic() - start_s:.0f} s",
            "check the camera's cable and power",
        )
        return
    problems = judge_frames(
        frames,
        is_live=is_live,
        frozen_after=device.run.frozen_after,
        allowed=controls_of(settings).automatic,
    )
    problems += _check_profile(frames[-1], device)
    yield from problems
    if not problems:
        height, width = frames[-1].pixels.shape[:2]
        yield ok(
            _NAME,
            f"{frames[-1].shot.source_id}: {width}x{height} px, first frame after "
            f"{first_after_s:.1f} s, brightness {brightness(frames[-1].pixels):.2f}",
        )


def _read_frames(
    source: Source, count: int, timeout_s: float
) -> tuple[list[RawFrame], float]:
    """Return up to `count` frames, and after how many seconds the first came.

    Raises
    ------
    HemascopeError
        A frame is damaged, or the camera was lost.
    """
    start_s, until_s = time.monotonic(), time.monotonic() + timeout_s
    frames: list[RawFrame] = []
    first_after_s = 0.0
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
                first_after_s = time.monotonic() - start_s
                until_s = time.monotonic() + _MAX_READ_S
    return frames, first_after_s


def judge_frames(
    frames: Sequence[RawFrame],
    *,
    is_live: bool,
    frozen_after: int,
    allowed: Sequence[str] = (),
) -> list[Finding]:
    """Return what is wrong with frames that follow each other; [] if nothing.

    Parameters
    ----------
    frames
        At least one.
    is_live
        Whether they are from a camera, which never sends the same noise twice.
    frozen_after
        So many identical frames are a frozen picture.
    allowed
        Controls that the camera may change by itself.
    """
    return [
        *_judge_light(frames[-1].pixels),
        *(_judge_frozen(frames, frozen_after) if is_live else ()),
        *_judge_controls(frames[-1], allowed),
    ]


def _judge_light(pixels: Counts) -> Iterator[Finding]:
    """Judge the light of `pixels` (H, W, 3), uint8 or uint16, by the gate's limits."""
    limits = QualityGate().limits()
    light, saturated = brightness(pixels), saturation(pixels)
    if light < limits["brightness"]:
        yield fault(
            _NAME,
            f"the picture is dark: brightness {light:.2f}, expected at least "
            f"{limits['brightness']:.2f}",
            "switch the lamp on, open the light path, or raise the exposure",
        )
    if saturated > limits["saturated"]:
        yield fault(
            _NAME,
            f"the picture is overexposed: {100 * saturated:.0f} % of the counts are at "
            f"full scale, expected at most {100 * limits['saturated']:.0f} %",
            "lower the exposure, the gain or the lamp",
        )


def _judge_frozen(frames: Sequence[RawFrame], frozen_after: int) -> Iterator[Finding]:
    newest = frames[-1].pixels
    is_enough = len(frames) >= frozen_after
    if is_enough and all(np.array_equal(newest, f.pixels) for f in frames):
        yield fault(
            _NAME,
            f"the picture is frozen: {len(frames)} frames are identical",
            "unplug the camera and plug it in again",
        )


def _judge_controls(frame: RawFrame, allowed: Sequence[str]) -> Iterator[Finding]:
    """Find controls that the camera changed by itself, or may change."""
    if frame.shot.doubt is not None:
        found, _, remedy = frame.shot.doubt.rpartition("; ")
        lock = "lock it in [source.controls]"
        yield warning(_NAME, found or remedy, remedy if found else lock)
        return
    controls = frame.shot.controls
    automatic = () if controls is None else controls.automatic
    unlocked = [name for name in automatic if name not in allowed]
    if unlocked:
        yield warning(
            _NAME,
            f"the camera changes by itself: {', '.join(unlocked)}",
            "lock it in [source.controls], or name it there as automatic",
        )


def _check_profile(frame: RawFrame, device: ExaminedDevice) -> list[Finding]:
    """Check whether the calibration is of this camera and frame size."""
    try:
        if device.profile is None:
            return []
        profile = load_profile(device.profile)
    except (HemascopeError, SettingMissing):  # the check of the calibration reports it
        return []
    height, width = frame.pixels.shape[:2]
    try:
        profile.check(width, height, frame.shot.camera)
    except HemascopeError as error:
        return [fault_from(_NAME, error, "check the camera's cable and power")]
    return []
