"""The stages of one frame on one core, over the time to copy the frame."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from edge.assembly import Parts
from edge.bundle import crop_size
from edge.correction import correct, correct_crops, prepare
from edge.crops import cut_crops, windows
from edge.decision import decide
from edge.location import find_regions, locator_spec, reduce, reduction
from edge.profile import Profile, ProfileRecord
from edge.quality import measure_quality
from export.benchmark.timing import Figure, at_most, in_turns, spread

Frame = NDArray[np.uint8]


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
    locator, engine = pipeline.locator, pipeline.locator_engine
    assert locator is not None  # noqa: S101 the bench finds cells
    assert engine is not None  # noqa: S101
    spec, size_px = locator_spec(locator), crop_size(pipeline.classifier)
    context = pipeline.classifier.record.input.context
    height, width = frames[0].shape[:2]
    profile = bench_profile()
    factor = reduction(pixel_um, spec)
    small_px = reduce(frames[0], factor).shape[1::-1]
    whole = prepare(profile, width, height, frames[0].dtype)
    small = prepare(profile, *small_px, frames[0].dtype)
    turn = cycle(frames)
    copy = np.empty_like(frames[0])
    frame = frames[0]
    reduced = reduce(frame, factor)
    corrected = correct(reduced, small)
    regions = find_regions(corrected, engine, spec, (width, height))
    places = windows(regions.boxes, context)
    crops = cut_crops(frame, places, size_px)
    flat = whole.log_flat
    assert flat is not None  # noqa: S101 the profile has a flat field
    flat_crops = cut_crops(flat, places, size_px)
    batch = correct_crops(crops, flat_crops, whole)
    logits = pipeline.classifier_engine.infer(batch).tensors["logits"]

    def correct_what_is_needed() -> None:
        correct(reduced, small)
        correct_crops(crops, cut_crops(flat, places, size_px), whole)

    def locate() -> None:
        find_regions(
            correct(reduce(frame, factor), small), engine, spec, (width, height)
        )

    tasks = {
        "copy of the frame": lambda: np.copyto(copy, next(turn)),
        "correct the whole frame": lambda: correct(frame, whole),
        "correct reduced frame and crops": correct_what_is_needed,
        "reduce": lambda: reduce(frame, factor),
        "find regions": lambda: find_regions(corrected, engine, spec, (width, height)),
        "locate: reduce, correct, find": locate,
        "cut crops": lambda: cut_crops(frame, places, size_px),
        "infer": lambda: pipeline.classifier_engine.infer(batch),
        "decide": lambda: decide(logits, 1.0, 0.5),
        "quality": lambda: measure_quality(reduced, corrected, None),
    }
    taken = in_turns(tasks, rounds)
    pipeline.close()
    floor = spread(taken["copy of the frame"])
    goals = {
        "correct the whole frame": 15,
        "correct reduced frame and crops": 8,
        "locate: reduce, correct, find": 15,
    }
    label = f"{width}x{height}, {len(regions.boxes)} cells"
    figures = [Figure(f"copy of the frame, {label}", 1.0, f"{floor} ms")]
    for name in list(tasks)[1:]:
        this = spread(taken[name])
        ratio = this.median / floor.median
        detail = f"{this} ms"
        goal = goals.get(name)
        if goal is not None and width >= 1920:
            figures.append(at_most(f"{name} over copy", ratio, goal, detail))
        else:
            figures.append(Figure(f"{name} over copy", ratio, detail))
    return figures
