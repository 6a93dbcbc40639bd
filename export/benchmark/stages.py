"""Measure the stages of one frame on one core, over the time to copy the frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from edge.artifacts.bundle import crop_size
from edge.artifacts.profile import Profile, ProfileRecord
from edge.pipeline.parts import Parts
from edge.pipeline.pipeline import Pipeline
from edge.stages.colour_correction import correct, correct_crops, prepare
from edge.stages.crops import cut_crops, windows
from edge.stages.decision import decide
from edge.stages.detection import find_regions, locator_spec, reduce, reduction
from edge.stages.image_quality import measure_quality
from export.benchmark.interleaved_timing import Figure, at_most, in_turns, spread

Frame = NDArray[np.uint8]
_COPY = "copy of the frame"
_CORRECT = "correct the whole frame"
_CORRECT_NEEDED = "correct reduced frame and crops"
_LOCATE = "locate: reduce, correct, find"
_GOALS = {_CORRECT: 15, _CORRECT_NEEDED: 8, _LOCATE: 15}
_GOALS_FROM_PX = 1920  # in a narrower frame, fixed costs count more than pixels


def bench_profile() -> Profile:
    """Return a profile with everything in it: black level, flat field and matrix."""
    y, x = np.mgrid[0:12, 0:16]
    even = 1 - 0.4 * ((x / 15 - 0.5) ** 2 + (y / 11 - 0.5) ** 2)
    flat = (even[..., None] * np.array([1.0, 0.98, 0.95])).astype(np.float32)
    record = ProfileRecord(
        black_level=2.0,
        white_point=(235.0, 232.0, 225.0),
        matrix=(
            (1.05, 0.02, -0.03, 0.02),
            (0.01, 0.97, 0.02, 0.02),
            (-0.02, 0.03, 1.01, 0.02),
        ),
    )
    return Profile(record, flat, "bench")


def measure_stages(
    frames: Sequence[Frame], parts: Parts, pixel_um: float, rounds: int
) -> list[Figure]:
    """Measure correction, location, crops and inference on frames of one size."""
    pipeline = parts.open_pipeline()
    tasks, cells = _tasks(frames, pipeline, pixel_um)
    spreads = {name: spread(spent) for name, spent in in_turns(tasks, rounds).items()}
    pipeline.close()
    height, width = frames[0].shape[:2]
    floor = spreads.pop(_COPY)
    figures = [Figure(f"{_COPY}, {width}x{height}, {cells} cells", 1, f"{floor} ms")]
    for name, this in spreads.items():
        ratio, title = this.median / floor.median, f"{name} over copy"
        if name in _GOALS and width >= _GOALS_FROM_PX:
            figures.append(at_most(title, ratio, _GOALS[name], f"{this} ms"))
        else:
            figures.append(Figure(title, ratio, f"{this} ms"))
    return figures


def _tasks(
    frames: Sequence[Frame], pipeline: Pipeline, pixel_um: float
) -> tuple[dict[str, Callable[[], object]], int]:
    """Return each stage with its input, ready to be called, and the number of cells."""
    locator, engine = pipeline.locator, pipeline.locator_engine
    assert locator is not None  # noqa: S101 the bench finds cells
    assert engine is not None  # noqa: S101
    spec, size_px = locator_spec(locator), crop_size(pipeline.classifier)
    frame, turn, copy = frames[0], cycle(frames), np.empty_like(frames[0])
    height, width = frame.shape[:2]
    factor = reduction(pixel_um, spec)
    reduced = reduce(frame, factor)
    whole = prepare(bench_profile(), width, height, frame.dtype)
    small = prepare(bench_profile(), *reduced.shape[1::-1], frame.dtype)
    field = correct(reduced, small)
    regions = find_regions(field, engine, spec, (width, height))
    crop_windows = windows(regions.boxes, pipeline.classifier.record.input.context)
    crops = cut_crops(frame, crop_windows, size_px)
    batch = correct_crops(crops, crop_windows, whole)
    logits = pipeline.classifiers[0].engine.infer(batch).tensors["logits"]

    def correct_what_is_needed() -> None:
        correct(reduced, small)
        correct_crops(crops, crop_windows, whole)

    def locate() -> None:
        reduced_field = correct(reduce(frame, factor), small)
        find_regions(reduced_field, engine, spec, (width, height))

    return {
        _COPY: lambda: np.copyto(copy, next(turn)),
        _CORRECT: lambda: correct(frame, whole),
        _CORRECT_NEEDED: correct_what_is_needed,
        "reduce": lambda: reduce(frame, factor),
        "find regions": lambda: find_regions(field, engine, spec, (width, height)),
        _LOCATE: locate,
        "cut crops": lambda: cut_crops(frame, crop_windows, size_px),
        "infer": lambda: pipeline.classifiers[0].engine.infer(batch),
        "decide": lambda: decide(logits, 1.0, 0.5),
        "quality": lambda: measure_quality(reduced, field, None),
    }, len(crops)
