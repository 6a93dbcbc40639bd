"""Run the watch for drift over simulated hours in which nothing changes.

    python -m tests.drift_hours --hours 24 --seeds 6

For each seed a simulated microscope without any drift is examined as a device does:
every frame is rendered, corrected and searched for cells, and its colours and focus are
measured. One frame per second, so that the hand moves to another field every eighth.
The hours are made from these minutes: pieces of 32 s (four fields) are drawn at random
and put one after the other, because what the watch must stand is that another field
shows other cells. Each hour of them begins a run of its own.

It prints, per seed, the frames that were amber or red, and for what. None is right. As
a negative control the same hours get another stain of nuclei half-way through a run,
and another light; that must be found.
"""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click
import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.artifacts.profile import Profile, ProfileRecord
from edge.engines.opening import open_engine
from edge.pipeline.calibration_drift import DriftWatch
from edge.pipeline.parts import read_parts
from edge.schema.results import Box, Colour, Drift, SeenColours
from edge.settings.sources import SimulatedSettings
from edge.simulation.microscope import SimulatedMicroscope
from edge.stages.colour_statistics import median, read_colours
from edge.stages.detection import find_regions, locator_spec, reduce, reduction
from edge.stages.image_quality import measure_quality

FRAME = SimulatedSettings(width_px=1280, height_px=960, rate_hz=1.0)
PIECE_S = 32  # four fields
UNCALIBRATED = Profile(ProfileRecord(), None, None)


@dataclass(frozen=True, slots=True)
class Look:
    """What one frame showed."""

    colours: SeenColours
    focus: float
    white_cells: list[Box]


def measure(seed: int, frames: int, settings: SimulatedSettings = FRAME) -> list[Look]:
    """Return what the frames of a simulated microscope show, one per second."""
    microscope = SimulatedMicroscope(msgspec.structs.replace(settings, seed=seed))
    locator = read_parts().locator
    assert locator is not None
    spec, size = locator_spec(locator), (settings.width_px, settings.height_px)
    factor = reduction(settings.pixel_size_um, spec)
    engine = open_engine(locator)
    looks = []
    for number in range(frames):
        field = reduce(microscope.render(number), factor)
        regions = find_regions(field, engine, spec, size)
        seen = read_colours(field, regions, locator.labels, size)
        boxes = regions.boxes * (field.shape[1] / size[0])
        looks.append(
            Look(
                SeenColours(
                    background=_colour(seen.background),
                    red_cells=_colour(median(seen.red_cells)),
                    nuclei=_colour(median(seen.nuclei)),
                ),
                measure_quality(field, field, None, boxes).focus,
                _boxes(regions.boxes[regions.kinds == locator.labels.index("WBC")]),
            )
        )
    engine.close()
    return looks


def _colour(colour: NDArray[np.float64] | None) -> Colour | None:
    if colour is None:
        return None
    red, green, blue = colour.round(1).tolist()
    return red, green, blue


def _boxes(boxes: NDArray[np.float32]) -> list[Box]:
    whole = boxes.round().astype(int).tolist()
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in whole]


def drawn(looks: Sequence[Look], seconds: int, seed: int) -> Iterator[Look]:
    """Give so many seconds of looks, in pieces drawn at random."""
    random = np.random.default_rng((seed, 7))
    given = 0
    while given < seconds:
        start = int(random.integers(0, len(looks) - PIECE_S + 1))
        yield from looks[start : start + PIECE_S]
        given += PIECE_S


def follow(looks: Iterator[Look], watch: DriftWatch) -> Iterator[Drift]:
    """Give what the watch says of each look, one per second."""
    for second, look in enumerate(looks):
        yield watch.follow(look.colours, look.focus, second * 10**9, look.white_cells)


def false_alarms(
    looks: Sequence[Look], hours: int, run_h: float, seed: int
) -> Counter[str]:
    """Count frames that were amber or red, by what for, in hours without a change."""
    found: Counter[str] = Counter()
    run_s = round(run_h * 3600)
    for run in range(-(-hours * 3600 // run_s)):
        watch = DriftWatch(UNCALIBRATED)
        for drift in follow(drawn(looks, run_s, seed * 1000 + run), watch):
            if drift.of is not None:
                found[f"{drift.of} {drift.status}"] += 1
    return found


def changed(look: Look, name: str, factors: Sequence[float]) -> Look:
    """Return the look with one colour multiplied, channel by channel."""
    colour = getattr(look.colours, name)
    if colour is None:
        return look
    red, green, blue = (np.array(colour) * factors).clip(0, 255).round(1).tolist()
    colours = msgspec.structs.replace(look.colours, **{name: (red, green, blue)})
    return Look(colours, look.focus, look.white_cells)


def found_after_s(
    looks: Sequence[Look],
    name: str,
    factors: Sequence[float],
    seed: int,
    at_s: int = 1800,
) -> dict[str, int | None]:
    """Return after how many seconds a change was told that came `at_s` into a run."""
    found: dict[str, int] = {}
    given = list(drawn(looks, 2 * at_s, seed))
    shown = given[:at_s] + [changed(look, name, factors) for look in given[at_s:]]
    for second, drift in enumerate(follow(iter(shown), DriftWatch(UNCALIBRATED))):
        if second >= at_s and drift.of == name:
            found.setdefault(drift.status, second - at_s)
    return {"amber": found.get("amber"), "red": found.get("red")}


CONTROLS = {  # name: channels times
    "background": (0.98, 0.95, 0.9),
    "red_cells": (1.0, 0.84, 0.9),
    "nuclei": (1.3, 0.7, 0.8),
}


def main() -> None:
    """Run the campaign and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=int, default=24, help="simulated, per seed")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--frames", type=int, default=400, help="rendered, per seed")
    parser.add_argument("--run-h", type=float, default=1.0, help="hours of one run")
    parser.add_argument("--size", default="1280x960", help="of a frame, in pixels")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    width, height = map(int, options.size.split("x"))
    settings = msgspec.structs.replace(FRAME, width_px=width, height_px=height)
    total: Counter[str] = Counter()
    for seed in range(1, options.seeds + 1):
        looks = measure(seed, options.frames, settings)
        found = false_alarms(looks, options.hours, options.run_h, seed)
        total += found
        told = {n: found_after_s(looks, n, by, seed) for n, by in CONTROLS.items()}
        alarms = dict(found) or "no alarm"
        click.echo(f"seed {seed}: {options.hours} h, {alarms}; changes told: {told}")
    click.echo(f"in all: {dict(total) or 'no alarm'}")
    raise SystemExit(bool(total))


if __name__ == "__main__":
    main()
