"""Score the tracker against known tracks, beside trackpy, in one run.

The scores are those of the multi-object tracking challenges, computed by the package
trackeval: HOTA (Luiten et al., arXiv 2009.07736), MOTA, IDF1, switches of identity and
fragments.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edge.clock import utc_of
from edge.frames import Exposure, RawFrame, Shot
from edge.pipeline.parts import Parts
from edge.settings.sources import SimulatedSettings
from edge.settings.timelapse import TrackingSettings
from edge.simulation.microscope import SimulatedMicroscope
from edge.taxonomy import NOT_A_CELL
from edge.timelapse.tracker import FoundCells, Tracker

_PER_MM2 = 6500.0  # cells on a usual smear
Positions = NDArray[np.float64]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """Frames of cells whose identities are known.

    For each frame: `truth` (M,) and `true_um` (M, 2) are the numbers and positions of
    all cells in view, `found_um` (N, 2) the detections, some of them false. A track
    that is `match_um` away from its cell counts half.
    """

    frame_um: tuple[float, float]
    truth: list[Numbers]
    true_um: list[Positions]
    found_um: list[Positions]
    match_um: float = 1.5


def random_scene(
    cells: int, frames: int, seed: int, *, hand_um: float = 25.0, missed: float = 0.05
) -> Scene:
    """Make a scene of about `cells` in view, as dense as on a smear.

    The stage drifts by 1 µm per frame, and a hand moves it by `hand_um` in the middle
    of the scene. A third of the cells move by up to 1.5 µm per frame, each in its own
    direction; all of them diffuse by 0.15 µm. Detections are off by 0.15 µm. A share
    `missed` of the cells is not detected, 3 % are hidden for three frames, and one
    detection in a hundred is false.
    """
    random = np.random.default_rng(seed)
    width = np.sqrt(cells / _PER_MM2 * 1e6 * 4 / 3)
    frame_um = np.array([width, 0.75 * width])
    reach = frames * 1.2 + hand_um + 10
    count = int(cells * np.prod(frame_um + 2 * reach) / np.prod(frame_um))
    at = random.uniform(-reach, frame_um + reach, (count, 2))
    own = random.uniform(-1.5, 1.5, (count, 2)) * (random.random((count, 1)) < 1 / 3)
    hidden = np.zeros(count, int)
    truth, true_um, found_um = [], [], []
    for t in range(frames):
        stage = np.array([0.8, 0.6]) * t + hand_um * (t >= frames // 2)
        at = at + own * 0.707 + random.normal(0, 0.15, at.shape)
        hidden = np.where(random.random(count) < 0.01, 3, np.maximum(hidden - 1, 0))
        in_view_um = at - stage
        inside = ((in_view_um >= 0) & (in_view_um < frame_um)).all(axis=1)
        truth.append(np.flatnonzero(inside))
        true_um.append(in_view_um[inside])
        kept = inside & (hidden == 0) & (random.random(count) >= missed)
        false = random.uniform(0, frame_um, (random.poisson(cells / 100), 2))
        error = random.normal(0, 0.15, (int(kept.sum()), 2))
        found_um.append(np.vstack([in_view_um[kept] + error, false]))
    return Scene((width, 0.75 * width), truth, true_um, found_um)


def real_scene(rows: Sequence[Mapping[str, str]]) -> Scene:
    """Make a scene of rows of a manifest, whose boxes are real detections, in pixels.

    It is not known which of them are the same cell. So the links of trackpy, with its
    range and memory, are taken for the truth: scores are agreement, not accuracy.
    """
    centres: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        x = (float(row["x0"]) + float(row["x1"])) / 2
        y = (float(row["y0"]) + float(row["y1"])) / 2
        centres.setdefault(row["path"], []).append((x, y))
    found = [np.array(centres[name]) for name in sorted(centres)]
    size = np.max([f.max(axis=0) for f in found], axis=0) + 5
    unlinked = Scene((float(size[0]), float(size[1])), [], [], found, 4.0)
    truth, true_um, _ = follow_by_trackpy(unlinked, 12.0, predicts=False)
    return Scene(unlinked.frame_um, truth, true_um, found, 4.0)


def located_scene(parts: Parts, source: SimulatedSettings, frames: int) -> Scene:
    """Make a scene of the cells that the device finds under a simulated microscope."""
    microscope = SimulatedMicroscope(source)
    um, pipeline = source.pixel_size_um, parts.open_pipeline()
    truth, true_um, found_um = [], [], []
    for number in range(frames):
        shot = Shot(number, number, utc_of(0), "made", pixel_size_um=um)
        raw = RawFrame(shot, microscope.render(number))
        cells = pipeline.examine(Exposure(shot, partial(_same, raw))).result.cells
        shown = microscope.truth(number, least_visible=0.5)
        truth.append(np.array([c.id for c in shown], np.int64))
        true_um.append(_centres([c.box for c in shown], um))
        found_um.append(_centres([c.box for c in cells if c.label != NOT_A_CELL], um))
    pipeline.close()
    return Scene(
        (source.width_px * um, source.height_px * um), truth, true_um, found_um
    )


def _same(frame: RawFrame) -> RawFrame:
    """Return a frame that is decoded already."""
    return frame


def _centres(
    boxes: Sequence[tuple[float, float, float, float]], um: float
) -> Positions:
    """Centres (N, 2) in µm of boxes in pixels."""
    corners = np.array(boxes, float).reshape(-1, 4)
    return np.asarray((corners[:, :2] + corners[:, 2:]) / 2 * um)


def follow(
    scene: Scene, settings: TrackingSettings
) -> tuple[list[Numbers], list[Positions], NDArray[np.float64]]:
    """Track a scene with the device's tracker.

    Returns the numbers (N,) and positions (N, 2) µm of the tracks in each frame, and
    the milliseconds of each frame.
    """
    tracker = Tracker(settings)
    numbers, positions, spent_ms = [], [], []
    for found_um in scene.found_um:
        count = len(found_um)
        found = FoundCells(found_um, np.full(count, 7.5), np.ones(count, bool))
        start = time.perf_counter()
        links = tracker.follow(found, 1, scene.frame_um)
        spent_ms.append(1e3 * (time.perf_counter() - start))
        named = links.tracks >= 0
        numbers.append(links.tracks[named])
        positions.append(found_um[named])
    return numbers, positions, np.array(spent_ms)


def follow_by_trackpy(
    scene: Scene, range_um: float, *, predicts: bool
) -> tuple[list[Numbers], list[Positions], NDArray[np.float64]]:
    """Track a scene with trackpy, with or without its prediction of drift.

    Its search range is `range_um`, the greatest step that our tracker allows, and its
    memory is as long as ours. Where too many cells lie together for it, it may reduce
    the range.
    """
    import pandas
    import trackpy

    trackpy.quiet()
    table = pandas.concat(
        pandas.DataFrame({"x": f[:, 0], "y": f[:, 1], "frame": t})
        for t, f in enumerate(scene.found_um)
    )
    options = {"memory": 5, "adaptive_stop": 1.0, "adaptive_step": 0.9}
    link: Callable[..., pandas.DataFrame] = trackpy.link
    if predicts:
        link = trackpy.predict.DriftPredict().link_df
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        linked = link(table, range_um, **options)
    mean_ms = 1e3 * (time.perf_counter() - start) / len(scene.found_um)
    numbers, positions = [], []
    for t in range(len(scene.found_um)):
        part = linked[linked["frame"] == t]
        numbers.append(part["particle"].to_numpy(np.int64))
        positions.append(part[["x", "y"]].to_numpy(float))
    return numbers, positions, np.array([mean_ms])


def score(
    truth: Sequence[Numbers],
    true_um: Sequence[Positions],
    numbers: Sequence[Numbers],
    positions: Sequence[Positions],
    match_um: float = 1.5,
) -> dict[str, float]:
    """Compare tracks with the truth: HOTA, MOTA, IDF1, IDSW and Frag.

    Parameters
    ----------
    truth, true_um
        For each frame the numbers (M,) and positions (M, 2) µm of the cells in view.
    numbers, positions
        Those of the tracks, (N,) and (N, 2) µm.
    match_um
        See `Scene`.
    """
    from trackeval import metrics

    similarity = [
        np.maximum(0, 1 - np.linalg.norm(a[:, None] - b[None], axis=2) / (2 * match_um))
        for a, b in zip(true_um, positions, strict=True)
    ]
    known, found = _dense(truth), _dense(numbers)
    data = {
        "num_timesteps": len(truth),
        "num_gt_ids": 1 + max(int(k.max(initial=-1)) for k in known),
        "num_tracker_ids": 1 + max(int(f.max(initial=-1)) for f in found),
        "num_gt_dets": sum(len(k) for k in known),
        "num_tracker_dets": sum(len(f) for f in found),
        "gt_ids": known,
        "tracker_ids": found,
        "similarity_scores": similarity,
    }
    quiet = {"PRINT_CONFIG": False}
    hota = metrics.HOTA().eval_sequence(data)
    clear = metrics.CLEAR(quiet).eval_sequence(data)
    identity = metrics.Identity(quiet).eval_sequence(data)
    return {
        "HOTA": float(np.mean(hota["HOTA"])),
        "AssA": float(np.mean(hota["AssA"])),
        "MOTA": float(clear["MOTA"]),
        "IDF1": float(identity["IDF1"]),
        "IDSW": float(clear["IDSW"]),
        "Frag": float(clear["Frag"]),
    }


def _dense(numbers: Sequence[Numbers]) -> list[Numbers]:
    """Replace the numbers by others from 0 without gaps, as trackeval needs them."""
    known = np.unique(np.concatenate(numbers))
    return [np.searchsorted(known, n) for n in numbers]
