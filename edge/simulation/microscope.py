"""The simulated microscope: a camera over a rendered smear whose truth is known."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.clock import utc_of
from edge.frames import Exposure, Gap, RawFrame, Shot, SourceLost
from edge.schema.results import Controls
from edge.settings.sources import SimulatedSettings
from edge.simulation.cell_painting import STAINS, Kind
from edge.simulation.change_timeline import ChangeTimeline, TrueChange
from edge.simulation.smear import SimulatedSlide, TrueCell, render_slide

_MOVE_S = 0.7  # a hand takes this long to move the stage
_REFOCUS_S = 17.0  # the stage wanders through focus with this period
_MIN_BLUR_PX = 0.35
_CONTROLS = Controls(exposure_ms=5.0, gain=1.0)


@dataclass(frozen=True, slots=True)
class VisibleCell:
    """One cell of the truth as the camera sees it.

    `box` (px) is clipped to the frame; it is that of the cell before any change.
    `centre` (px) is that of the whole cell, and may lie outside of the frame.
    """

    id: int
    kind: Kind
    label: str
    box: tuple[float, float, float, float]
    centre: tuple[float, float]


class SimulatedMicroscope:
    """Slide, stage, lamp and lens, whether or not a camera is connected.

    The same seed and sequence give the same frame. `monotonic_ns` and `sleep` may be
    replaced, so that hours pass in seconds.
    """

    def __init__(
        self,
        settings: SimulatedSettings,
        *,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.settings = settings
        self.now_ns, self.sleep = monotonic_ns, sleep
        self._slide, self._timeline = _slide(settings)
        self._optics = _Optics(settings)
        self.start_ns = monotonic_ns()

    def connect(self) -> SimulatedCamera:
        """Connect the camera.

        Raises
        ------
        SourceLost
            The simulated cable is unplugged at this moment.
        """
        return SimulatedCamera(self)

    def render(self, sequence: int) -> NDArray[np.uint8]:
        """Return the frame (H, W, 3) uint8 RGB exposed as number `sequence`."""
        seconds = self.time_s(sequence)
        x, y = self._corner(seconds)
        view = self._slide.transmittance[
            y : y + self.settings.height_px, x : x + self.settings.width_px
        ]
        if self._timeline is not None:
            width, height = _slide_px(self.settings).tolist()
            view = self._timeline.apply(view, (x, y), (width, height), seconds)
        return self._optics.expose(view, seconds, sequence)

    def truth(self, sequence: int, least_visible: float = 0.25) -> list[VisibleCell]:
        """Return the cells of which frame `sequence` shows at least that share."""
        corner = np.array(self._corner(self.time_s(sequence)))
        size = np.array([self.settings.width_px, self.settings.height_px])
        period = _slide_px(self.settings)
        visible = []
        for cell in self._slide.cells:
            half = np.array([cell.width_px, cell.height_px]) / 2
            at = (np.array([cell.x_px, cell.y_px]) - corner + half) % period - half
            low, high = np.clip(at - half, 0, size), np.clip(at + half, 0, size)
            shown = float(np.prod(high - low) / np.prod(2 * half))
            if shown >= least_visible:
                box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
                centre = (float(at[0]), float(at[1]))
                visible.append(VisibleCell(cell.id, cell.kind, cell.label, box, centre))
        return visible

    @property
    def cells(self) -> tuple[TrueCell, ...]:
        """All cells of the slide."""
        return self._slide.cells

    def corner(self, sequence: int) -> tuple[int, int]:
        """Return where on the slide (px) the upper left corner of a frame lies."""
        return self._corner(self.time_s(sequence))

    def changes(self) -> tuple[TrueChange, ...]:
        """Return what happens to cells of the slide, and when."""
        return () if self._timeline is None else tuple(self._timeline.truth)

    def time_s(self, sequence: int) -> float:
        """Seconds from the start to exposure number `sequence`."""
        return sequence / (self.settings.rate_hz or 30.0)

    def is_dropped(self, sequence: int) -> bool:
        """Whether the driver loses this frame."""
        chance = np.random.default_rng((self.settings.seed, sequence, 1)).random()
        return bool(chance < self.settings.drop_share)

    def is_unplugged(self, sequence: int) -> bool:
        """Whether the cable is unplugged when this frame is exposed."""
        every, away = self.settings.unplug_every_s, self.settings.unplug_for_s
        return every > 0 and self.time_s(sequence) % (every + away) >= every

    def _corner(self, seconds: float) -> tuple[int, int]:
        """Top left pixel of the view on the slide: slow drift and sudden hand moves."""
        settings = self.settings
        um = settings.drift_um_per_s * seconds
        bend = 0.15 * settings.drift_um_per_s * np.sin(seconds / 5) * 5
        at = np.array([0.8 * um + bend, 0.6 * um - bend]) / settings.pixel_size_um
        if settings.hand_move_every_s > 0:
            moves = int(seconds / settings.hand_move_every_s)
            since = seconds - moves * settings.hand_move_every_s
            part = min(1.0, since / _MOVE_S)
            at += _hand(settings, moves - 1)
            at += (part * part * (3 - 2 * part)) * _hand_step(settings, moves)
        slide = _slide_px(settings)
        if not settings.is_endless:
            room = slide - (settings.width_px, settings.height_px)
            at = room - np.abs(at % (2 * room) - room)  # turn back at the edges
        x, y = np.rint(at).astype(int) % slide
        return int(x), int(y)


class SimulatedCamera:
    """The connection to a simulated microscope: a `Source`.

    Frames are exposed at `rate_hz` whether or not they are read: after a late read the
    driver's numbers have a jump. With `rate_hz` 0 each read exposes the next
    frame at once, as a recording would.
    """

    def __init__(self, microscope: SimulatedMicroscope) -> None:
        self._microscope = microscope
        self._rate_hz = microscope.settings.rate_hz
        self._source_id = f"simulated:{microscope.settings.seed}"
        self._next = self._due()
        self._refuse_unplugged(self._next)

    @property
    def is_live(self) -> bool:
        """Whether frames come at their own pace."""
        return self._rate_hz > 0

    def read(self, timeout_s: float) -> Exposure | Gap | None:
        """Return the next exposure; see `Source.read`."""
        microscope = self._microscope
        sequence = max(self._next, self._due())
        while microscope.is_dropped(sequence):
            sequence += 1
        wait_s = 0.0
        if self.is_live:
            wait_s = microscope.time_s(sequence) - self._elapsed_s()
        if wait_s > timeout_s:
            microscope.sleep(timeout_s)
            return None
        if wait_s > 0:
            microscope.sleep(wait_s)
        self._refuse_unplugged(sequence)
        self._next = sequence + 1
        now_ns = microscope.now_ns()
        exposed_ns = microscope.start_ns + int(microscope.time_s(sequence) * 1e9)
        shot = Shot(
            sequence=sequence,
            monotonic_ns=exposed_ns if self.is_live else now_ns,
            utc=utc_of(exposed_ns if self.is_live else now_ns),
            source_id=self._source_id,
            camera=self._source_id,
            controls=_CONTROLS,
            pixel_size_um=microscope.settings.pixel_size_um,
        )
        return Exposure(shot, lambda: RawFrame(shot, microscope.render(sequence)))

    def close(self) -> None:
        """Nothing to release."""

    def _elapsed_s(self) -> float:
        return (self._microscope.now_ns() - self._microscope.start_ns) * 1e-9

    def _due(self) -> int:
        """Return the number of the exposure that the pace has reached."""
        return int(self._elapsed_s() * self._rate_hz)

    def _refuse_unplugged(self, sequence: int) -> None:
        if self._microscope.is_unplugged(sequence):
            raise SourceLost(f"{self._source_id}: no camera answers; plug its cable in")


class _Optics:
    """Lamp, vignetting, focus and sensor noise."""

    def __init__(self, settings: SimulatedSettings) -> None:
        self._settings = settings
        height, width = settings.height_px, settings.width_px
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        off = np.hypot((x - 0.53 * width) / width, (y - 0.48 * height) / width)
        self._illumination = 1 - settings.vignetting * (off / 0.6) ** 2
        self._lamp = (1.0, self._gain_at(1.0))
        random = np.random.default_rng((settings.seed, 2))
        grain = random.normal(0, settings.noise, (height + 64, width + 64, 3)).round()
        self._noise_up = np.clip(grain, 0, 255).astype(np.uint8)
        self._noise_down = np.clip(-grain, 0, 255).astype(np.uint8)

    def expose(
        self, view: NDArray[np.uint8], seconds: float, sequence: int
    ) -> NDArray[np.uint8]:
        """Return counts (h, w, 3) uint8 of a view (h, w, 3) uint8 of the slide."""
        settings = self._settings
        blur_px = (
            abs(settings.defocus_um * np.sin(2 * np.pi * seconds / _REFOCUS_S))
            * 0.35
            / settings.pixel_size_um
        )
        if blur_px > _MIN_BLUR_PX:
            view = cv2.GaussianBlur(view, (0, 0), blur_px)
        gain = self._gain(1 + settings.lamp_drift_per_h * seconds / 3600)
        counts = cv2.multiply(view, gain, scale=1 / 255)
        dx, dy = np.random.default_rng((settings.seed, sequence, 3)).integers(0, 64, 2)
        rows = slice(dy, dy + settings.height_px)
        columns = slice(dx, dx + settings.width_px)
        cv2.add(counts, self._noise_up[rows, columns], counts)
        return np.asarray(cv2.subtract(counts, self._noise_down[rows, columns], counts))

    def _gain(self, level: float) -> NDArray[np.uint8]:
        """Return the gains (h, w, 3) at a lamp level; several threads may call it."""
        level = round(level, 3)
        last_level, gain = self._lamp
        if level != last_level:
            gain = self._gain_at(level)
            self._lamp = (level, gain)
        return gain

    def _gain_at(self, level: float) -> NDArray[np.uint8]:
        """Compute gains (h, w, 3) at a lamp level: a lamp gets redder as it dims."""
        colour = np.array(self._settings.lamp) * np.array(
            [level**0.8, level, level**1.4]
        )
        gain = self._illumination[..., None] * colour.astype(np.float32) * 255
        return np.asarray(np.clip(gain + 0.5, 0, 255), np.uint8)


def _slide_px(settings: SimulatedSettings) -> NDArray[np.intp]:
    """Width and height of the slide's period in pixels."""
    size = np.array([settings.width_px, settings.height_px]) * settings.slide_frames
    return np.asarray(size, np.intp)


@lru_cache(maxsize=2)
def _slide(settings: SimulatedSettings) -> tuple[SimulatedSlide, ChangeTimeline | None]:
    """Return the slide, wrapped so that every view is one contiguous cut."""
    timeline = ChangeTimeline(settings) if settings.changing > 0 else None
    width, height = _slide_px(settings).tolist()
    slide = render_slide(
        width,
        height,
        pixel_size_um=settings.pixel_size_um,
        stain=STAINS[settings.stain],
        cells_per_mm2=settings.cells_per_mm2,
        seed=settings.seed,
        on_cell=None if timeline is None else timeline.plan_cell,
    )
    wrapped = cv2.copyMakeBorder(
        slide.transmittance,
        0,
        settings.height_px,
        0,
        settings.width_px,
        cv2.BORDER_WRAP,
    )
    return SimulatedSlide(
        np.asarray(wrapped), slide.cells, slide.pixel_size_um
    ), timeline


def _hand_step(settings: SimulatedSettings, move: int) -> NDArray[np.float64]:
    """How far (px) the hand moves the stage at move number `move`."""
    if move < 1:
        return np.zeros(2)
    random = np.random.default_rng((settings.seed, move, 4))
    return random.uniform(-0.9, 0.9, 2) * (settings.width_px, settings.height_px)


@lru_cache(maxsize=4096)
def _hand(settings: SimulatedSettings, moves: int) -> NDArray[np.float64]:
    """Where (px) the hand has brought the stage after `moves` moves."""
    if moves < 1:
        return np.zeros(2)
    return _hand(settings, moves - 1) + _hand_step(settings, moves)
