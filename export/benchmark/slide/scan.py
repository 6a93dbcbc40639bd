"""Walk over a simulated slide with everything at work, and compare with its truth."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

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

# A field of 134 by 84 µm as everywhere, in fewer pixels: it is rendered faster.
WALK = SimulatedSettings(
    width_px=960,
    height_px=600,
    pixel_size_um=0.14,
    rate_hz=1.0,
    drift_um_per_s=6.0,
    hand_move_every_s=2.0,
    slide_frames=5.0,
    is_endless=False,
)

_CENTRE_UM = 0.7


_RUN = CurrentRun("20260101T000000Z-000001")


@dataclass(frozen=True, slots=True, eq=False)
class SlideScan:
    """What a walk counted and what there was.

    `truth`: cells whose centre lay within the counting margin of a frame that was not
    rejected; `least` and `most`: those that lay so by 0.7 µm more and by 0.7 µm less,
    which is how well a centre is known; `slide`: cells of the whole slide; `jumps`:
    moves that left no overlap; `twice`: cells of the truth that two counted ones lie
    on. `cost_ms`: processor time of counting, by frame; `placed_px`: errors of the
    places within a patch, in pixels of the frame.
    """

    run: SlideCounter
    counted: Counter[str]
    truth: Counter[str]
    least: Counter[str]
    most: Counter[str]
    slide: Counter[str]
    frames: int
    rejected: Counter[str]
    jumps: int
    returns: int
    differential: Differential
    cost_ms: NDArray[np.float64]
    placed_px: NDArray[np.float64]
    twice: int


def walk(
    settings: SimulatedSettings,
    parts: Parts,
    frames: int,
    done: Callable[[int], None] = lambda number: None,
) -> SlideScan:
    """Examine `frames` frames of a simulated slide and count its cells."""
    bench = SimulatedMicroscope(settings)
    run = open_slide_counter(parts, DifferentialSettings())
    if run is None:
        raise ValueError("the parts have no locator: nothing can be counted")
    size = (settings.width_px, settings.height_px)
    margin_px = counting_margin(size, settings.pixel_size_um)
    centre_px = _CENTRE_UM / settings.pixel_size_um
    met: dict[float, dict[int, str]] = {0.0: {}, centre_px: {}, -centre_px: {}}
    rejected: Counter[str] = Counter()
    corners, costs, offsets = [], [], []
    pipeline = replace(parts.open_pipeline(), scale=Scale(settings.pixel_size_um))
    result: FrameResult | None = None
    for number in range(frames):
        seen = pipeline.examine(_exposure(bench, number))
        start = time.thread_time()
        result = msgspec.structs.replace(seen.result, run=_RUN.id)
        result = run.count(run.judge(result, _RUN), seen.thumbnail)
        costs.append((time.thread_time() - start) * 1e3)
        done(number)
        if result.status == "rejected":
            rejected[str(result.fault)] += 1
            continue
        corner = np.array(bench.corner(number), float)
        corners.append(corner)
        offsets.append(_offset(result, corner, settings.pixel_size_um))
        for cell in bench.truth(number):
            depth_px = min(
                min(cell.centre),
                *(side - at for side, at in zip(size, cell.centre, strict=True)),
            )
            for more_px, cells in met.items():
                if depth_px >= margin_px + more_px:
                    cells[cell.id] = cell.label
    pipeline.close()
    if result is None or result.differential is None:
        raise ValueError(f"no frame was examined, {frames} were asked for")
    return SlideScan(
        run=run,
        counted=Counter({c.label: c.count for c in result.differential.classes}),
        truth=Counter(met[0.0].values()),
        least=Counter(met[centre_px].values()),
        most=Counter(met[-centre_px].values()),
        slide=Counter(cell.label for cell in bench.cells),
        frames=frames,
        rejected=rejected,
        jumps=_jumps(np.array(corners), size),
        returns=_returns(np.array(corners), size),
        differential=result.differential,
        cost_ms=np.array(costs),
        placed_px=_errors(offsets),
        twice=_twice(run, bench, offsets),
    )


def _exposure(bench: SimulatedMicroscope, number: int) -> Exposure:
    now_ns = time.monotonic_ns()
    shot = Shot(
        number,
        now_ns,
        utc_of(now_ns),
        "simulated",
        pixel_size_um=bench.settings.pixel_size_um,
    )
    return Exposure(shot, lambda: RawFrame(shot, bench.render(number)))


def _offset(
    result: FrameResult, corner: NDArray[np.float64], pixel_size_um: float
) -> tuple[int, float, float]:
    """Patch, and how far (px) its origin is from the slide's by this frame."""
    found = result.differential
    if found is None or found.place_um is None or found.patch is None:
        return -1, 0.0, 0.0
    x, y = np.array(found.place_um) / pixel_size_um - corner
    return found.patch, float(x), float(y)


def _errors(offsets: list[tuple[int, float, float]]) -> NDArray[np.float64]:
    """Distance (px) of each frame's place from where its patch says it should be."""
    errors = []
    for patch in {o[0] for o in offsets}:
        of = np.array([o[1:] for o in offsets if o[0] == patch])
        errors += np.hypot(*(of - np.median(of, axis=0)).T).tolist()
    return np.array(errors)


def _twice(
    run: SlideCounter,
    bench: SimulatedMicroscope,
    offsets: list[tuple[int, float, float]],
) -> int:
    """Count the true cells that are nearest to, and lie under, two counted ones."""
    cells, labels = run.registry.cells, run.registry.label_indices()
    cells = cells[labels >= 0]
    view_px = max(run.mosaic.keys[0][1].shape)
    scale = bench.settings.width_px / view_px
    true = np.array([(c.x_px, c.y_px) for c in bench.cells])
    radius = np.array([min(c.width_px, c.height_px) / 2 for c in bench.cells])
    hits: Counter[int] = Counter()
    for patch in set(cells["patch"].tolist()):
        of = [o[1:] for o in offsets if o[0] == patch] or [(0.0, 0.0)]
        for cell in cells[cells["patch"] == patch]:
            at = cell["at"] * scale - np.median(of, axis=0)
            apart = np.hypot(*(true - at).T)
            nearest = int(apart.argmin())
            hits[nearest] += bool(apart[nearest] < radius[nearest])
    return sum(1 for times in hits.values() if times > 1)


def _jumps(corners: NDArray[np.float64], size: tuple[int, int]) -> int:
    """Count the moves that left less than a tenth of the field in common."""
    step = np.abs(np.diff(corners, axis=0))
    shared = np.clip(1 - step / size, 0, None).prod(axis=1)
    return int((shared < 0.1).sum())


def _returns(corners: NDArray[np.float64], size: tuple[int, int]) -> int:
    """Count the frames that show a field seen before, with others in between."""
    found = 0
    for number in range(2, len(corners)):
        apart = np.abs(corners[:number] - corners[number])
        shared = np.clip(1 - apart / size, 0, None).prod(axis=1)
        before = np.flatnonzero(shared > 0.5)
        found += bool(len(before) and (shared[before[0] :] < 0.05).any())
    return found
