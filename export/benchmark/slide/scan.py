"""Scan a simulated slide with the whole pipeline, and compare with the truth."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.clock import utc_of
from edge.frames import Exposure, RawFrame, Shot
from edge.pipeline.parts import Parts
from edge.pipeline.pixel_size import Scale
from edge.run.composition import open_slide_counter
from edge.schema.results import Differential, FrameResult
from edge.settings.run import DifferentialSettings
from edge.settings.sources import SimulatedSettings
from edge.simulation.microscope import SimulatedMicroscope
from edge.slide.run_state import CurrentRun
from edge.slide.slide_counter import SlideCounter, counting_margin

# The usual field of 134 by 84 µm, in fewer pixels, which are rendered faster.
SCAN = SimulatedSettings(
    width_px=960,
    height_px=600,
    pixel_size_um=0.14,
    rate_hz=1.0,
    drift_um_per_s=6.0,
    hand_move_every_s=2.0,
    slide_frames=5.0,
    is_endless=False,
)

_CENTRE_UM = 0.7  # how exactly the centre of a cell is known
_RUN = CurrentRun("20260101T000000Z-000001")
Offset = tuple[int, float, float]  # patch, x and y in pixels


@dataclass(frozen=True, slots=True, eq=False)
class SlideScan:
    """What a scan counted, and the truth.

    `counter` has counted; `counted` are its cells by label. `truth` are the cells whose
    centre lay within the counting margin of a frame that was not rejected. A centre is
    known to 0.7 µm: `fewest` are those that lay deeper by so much, `most` those that
    lay so by 0.7 µm less. `slide` are the cells of the whole slide. `jumps` counts
    moves that left no overlap, `returns` frames that show a field again, `twice` true
    cells that were counted twice. `cost_ms` (frames,) is the processor time of
    counting; `position_errors_px` (accepted frames,) are the errors of the frames'
    positions within a patch, in pixels of the frame.
    """

    counter: SlideCounter
    counted: Counter[str]
    truth: Counter[str]
    fewest: Counter[str]
    most: Counter[str]
    slide: Counter[str]
    frames: int
    rejected: Counter[str]
    jumps: int
    returns: int
    differential: Differential
    cost_ms: NDArray[np.float64]
    position_errors_px: NDArray[np.float64]
    twice: int


@dataclass(slots=True)
class _Track:
    """What is noted of each frame while a slide is scanned.

    `cells` holds, for each further distance from the margin in pixels, the true cells
    that were in view, by id. `corners` are (2,) positions of accepted frames on the
    slide, in pixels; `offsets` the patch of each and its offset from the slide.
    """

    cells: dict[float, dict[int, str]]
    rejected: Counter[str] = field(default_factory=Counter)
    corners: list[NDArray[np.float64]] = field(default_factory=list)
    costs_ms: list[float] = field(default_factory=list)
    offsets: list[Offset] = field(default_factory=list)


def scan(
    settings: SimulatedSettings,
    parts: Parts,
    frames: int,
    done: Callable[[int], None] = lambda number: None,
) -> SlideScan:
    """Examine `frames` frames of a simulated slide and count its cells.

    Parameters
    ----------
    settings
        Of the simulated microscope.
    parts
        Locator and classifier.
    frames
        How many.
    done
        Called with the number of each frame that was examined.

    Raises
    ------
    ValueError
        The parts have no locator, or no frame was asked for.
    """
    microscope = SimulatedMicroscope(settings)
    counter = open_slide_counter(parts, DifferentialSettings())
    if counter is None:
        raise ValueError("the parts have no locator: nothing can be counted")
    centre_px = _CENTRE_UM / settings.pixel_size_um
    track = _Track({0.0: {}, centre_px: {}, -centre_px: {}})
    pipeline = replace(parts.open_pipeline(), scale=Scale(settings.pixel_size_um))
    result: FrameResult | None = None
    for number in range(frames):
        examined = pipeline.examine(_exposure(microscope, number))
        start = time.thread_time()
        result = msgspec.structs.replace(examined.result, run=_RUN.id)
        result = counter.count(counter.judge(result, _RUN), examined.thumbnail)
        track.costs_ms.append((time.thread_time() - start) * 1e3)
        done(number)
        _note(track, result, microscope, number)
    pipeline.close()
    if result is None or result.differential is None:
        raise ValueError(f"no frame was examined, {frames} were asked for")
    return _summary(counter, microscope, track, result.differential, frames)


def _note(
    track: _Track, result: FrameResult, microscope: SimulatedMicroscope, number: int
) -> None:
    """Note where an accepted frame lay, and which true cells it should count."""
    if result.status == "rejected":
        track.rejected[str(result.fault)] += 1
        return
    settings = microscope.settings
    size = (settings.width_px, settings.height_px)
    margin_px = counting_margin(size, settings.pixel_size_um)
    corner = np.array(microscope.corner(number), float)
    track.corners.append(corner)
    track.offsets.append(_offset(result, corner, settings.pixel_size_um))
    for cell in microscope.truth(number):
        depth_px = min(
            min(cell.centre),
            *(side - at for side, at in zip(size, cell.centre, strict=True)),
        )
        for deeper_px, cells in track.cells.items():
            if depth_px >= margin_px + deeper_px:
                cells[cell.id] = cell.label


def _summary(
    counter: SlideCounter,
    microscope: SimulatedMicroscope,
    track: _Track,
    differential: Differential,
    frames: int,
) -> SlideScan:
    """Compare what was counted with the truth."""
    settings = microscope.settings
    size = (settings.width_px, settings.height_px)
    corners = np.array(track.corners)
    truth, fewest, most = (Counter(cells.values()) for cells in track.cells.values())
    return SlideScan(
        counter=counter,
        counted=Counter({c.label: c.count for c in differential.classes}),
        truth=truth,
        fewest=fewest,
        most=most,
        slide=Counter(cell.label for cell in microscope.cells),
        frames=frames,
        rejected=track.rejected,
        jumps=_jumps(corners, size),
        returns=_returns(corners, size),
        differential=differential,
        cost_ms=np.array(track.costs_ms),
        position_errors_px=_position_errors(track.offsets),
        twice=_counted_twice(counter, microscope, track.offsets),
    )


def _exposure(microscope: SimulatedMicroscope, number: int) -> Exposure:
    """Return frame `number` of the microscope as an exposure of now."""
    now_ns = time.monotonic_ns()
    shot = Shot(
        number,
        now_ns,
        utc_of(now_ns),
        "simulated",
        pixel_size_um=microscope.settings.pixel_size_um,
    )
    return Exposure(shot, lambda: RawFrame(shot, microscope.render(number)))


def _offset(
    result: FrameResult, corner: NDArray[np.float64], pixel_size_um: float
) -> Offset:
    """Return the patch of a frame, and its origin on the slide in pixels.

    `corner` (2,) is the frame's true position on the slide. A frame without a position
    has patch -1.
    """
    position = result.differential
    if position is None or position.place_um is None or position.patch is None:
        return -1, 0.0, 0.0
    x, y = np.array(position.place_um) / pixel_size_um - corner
    return position.patch, float(x), float(y)


def _position_errors(offsets: list[Offset]) -> NDArray[np.float64]:
    """Distance (N,) in pixels of each frame's offset from the median of its patch."""
    errors = []
    for patch in {o[0] for o in offsets}:
        own = np.array([o[1:] for o in offsets if o[0] == patch])
        errors += np.hypot(*(own - np.median(own, axis=0)).T).tolist()
    return np.array(errors)


def _counted_twice(
    counter: SlideCounter, microscope: SimulatedMicroscope, offsets: list[Offset]
) -> int:
    """Count the true cells that are the nearest of two or more counted ones.

    A counted cell belongs to the nearest true one, if it lies within its radius.
    """
    cells, labels = counter.registry.cells, counter.registry.label_indices()
    cells = cells[labels >= 0]
    thumbnail_px = max(counter.mosaic.key_frames[0][1].shape)
    scale = microscope.settings.width_px / thumbnail_px
    true = np.array([(c.x_px, c.y_px) for c in microscope.cells])
    radius = np.array([min(c.width_px, c.height_px) / 2 for c in microscope.cells])
    hits: Counter[int] = Counter()
    for patch in set(cells["patch"].tolist()):
        own = [o[1:] for o in offsets if o[0] == patch] or [(0.0, 0.0)]
        for cell in cells[cells["patch"] == patch]:
            at = cell["centre"] * scale - np.median(own, axis=0)
            distance = np.hypot(*(true - at).T)
            nearest = int(distance.argmin())
            hits[nearest] += bool(distance[nearest] < radius[nearest])
    return sum(1 for times in hits.values() if times > 1)


def _jumps(corners: NDArray[np.float64], size: tuple[int, int]) -> int:
    """Count moves after which less than a tenth of the field is still in view.

    `corners` (N, 2) are the positions of the frames on the slide, `size` that of a
    frame, both in pixels.
    """
    step = np.abs(np.diff(corners, axis=0))
    shared = np.clip(1 - step / size, 0, None).prod(axis=1)
    return int((shared < 0.1).sum())


def _returns(corners: NDArray[np.float64], size: tuple[int, int]) -> int:
    """Count frames that show a field again, with other fields in between.

    `corners` and `size` as for `_jumps`.
    """
    returns = 0
    for number in range(2, len(corners)):
        distance = np.abs(corners[:number] - corners[number])
        shared = np.clip(1 - distance / size, 0, None).prod(axis=1)
        before = np.flatnonzero(shared > 0.5)
        returns += bool(len(before) and (shared[before[0] :] < 0.05).any())
    return returns
