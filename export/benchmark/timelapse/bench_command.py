"""The commands `hemascope bench-timelapse …`: what following cells brings and costs."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click
import cv2
import msgspec
import numpy as np

from edge.artifacts.bundle import load_bundle
from edge.pipeline.parts import Parts, read_parts
from edge.schema.results import FrameResult
from edge.schema.setting_errors import explain
from edge.settings.models import SequenceSettings
from edge.settings.sources import SimulatedSettings
from edge.settings.timelapse import EventSettings, TrackingSettings
from export.benchmark.timelapse.change_events import Score, run_simulated
from export.benchmark.timelapse.change_events import score as score_events
from export.benchmark.timelapse.filmstrips import TrackRow, draw_strips
from export.benchmark.timelapse.follower_cost import measure_cost
from export.benchmark.timelapse.memory_gain import measure_gain
from export.benchmark.timelapse.tracking import (
    Scene,
    follow,
    follow_by_trackpy,
    located_scene,
    random_scene,
    real_scene,
    score,
)

_NAMES = ("HOTA", "AssA", "MOTA", "IDF1", "IDSW", "Frag")
_RATE_HZ = 0.1


def measure_tracking(sizes: tuple[int, ...], frames: int, real: Path | None) -> None:
    """Score the tracker and trackpy on scenes of known tracks."""
    cv2.setNumThreads(1)
    click.echo(f"| scene | tracker | {' | '.join(_NAMES)} | ms per frame |")
    click.echo("|---|---|" + "---|" * (len(_NAMES) + 1))
    scenes = {}
    for cells in sizes:
        scenes[f"{cells} cells"] = random_scene(cells, frames, 1, hand_um=0)
        scenes[f"{cells} cells, moved by hand"] = random_scene(cells, frames, 2)
    moving = SimulatedSettings(
        width_px=800,
        height_px=600,
        pixel_size_um=0.14,
        rate_hz=2,
        drift_um_per_s=2.0,
        hand_move_every_s=0,
        seed=6,
    )
    scenes["simulated microscope, stage drifts 1 µm per frame"] = located_scene(
        read_parts(), moving, frames
    )
    for name, scene in scenes.items():
        _compare(name, scene, TrackingSettings(most_tracks=5000), 3.0)
    if real is not None:
        with real.open(encoding="utf-8") as file:
            rows = [r for r in csv.DictReader(file) if r["source"] == "flowcatchr"]
        scene = real_scene(rows)
        wide = TrackingSettings(most_step_um=12.0, most_shift_um=12.0, confirm_after=1)
        _compare("flowcatchr, against trackpy's links (pixels)", scene, wide, 12.0)


def _compare(
    name: str, scene: Scene, settings: TrackingSettings, range_um: float
) -> None:
    """Score each tracker on a scene and show a row of the table for it."""
    runs = {
        "this": follow(scene, settings),
        "trackpy": follow_by_trackpy(scene, range_um, predicts=False),
        "trackpy, predicting drift": follow_by_trackpy(scene, range_um, predicts=True),
    }
    for tracker, (numbers, positions, spent_ms) in runs.items():
        scores = score(scene.truth, scene.true_um, numbers, positions, scene.match_um)
        shown = [
            f"{scores[n]:.3f}" if n[0] != "F" else f"{scores[n]:.0f}" for n in _NAMES
        ]
        shown[4] = f"{scores['IDSW']:.0f}"
        click.echo(
            f"| {name} | {tracker} | {' | '.join(shown)} | {np.median(spent_ms):.1f} |"
        )


def measure_events(
    bundle: Path | None,
    hours: float,
    runs: int,
    first_seed: int,
    changing: float,
    overrides: tuple[str, ...],
    picture: Path | None,
) -> None:
    """Find what happens in simulated runs, one frame every ten seconds."""
    cv2.setNumThreads(1)
    parts, total = _parts(bundle), Score()
    frames = round(hours * 3600 * _RATE_HZ)
    for seed in range(first_seed, first_seed + runs):
        source = _override(_changing_cells(seed, changing, hours), overrides)
        tracks: dict[int, TrackRow] = {}
        microscope, run = run_simulated(
            parts,
            source,
            frames,
            TrackingSettings(),
            EventSettings(),
            partial(_follow_progress, tracks if picture is not None else None),
        )
        one = score_events(microscope, run)
        total.add(one)
        click.echo(f"seed {seed}:\n" + "\n".join(one.lines()))
        if picture is not None:
            strips = draw_strips(microscope, run, tracks)
            cv2.imwrite(str(picture), strips[..., ::-1])
    click.echo("all:\n" + "\n".join(total.lines()))


def _changing_cells(seed: int, changing: float, hours: float) -> SimulatedSettings:
    """Return a microscope on which a share of the cells changes within some hours."""
    return SimulatedSettings(
        width_px=960,
        height_px=720,
        rate_hz=_RATE_HZ,
        pixel_size_um=0.14,
        drift_um_per_s=0.002,
        hand_move_every_s=0,
        lamp_drift_per_h=-0.01,
        seed=seed,
        changing=changing,
        changing_within_h=hours,
    )


def _follow_progress(tracks: dict[int, TrackRow] | None, result: FrameResult) -> None:
    """Show how far a run is, and keep its tracks where `tracks` is given."""
    if result.frame.first % 100 == 0 and result.following is not None:
        click.echo(f"frame {result.frame.first}: {result.following.tracks} tracks")
    if tracks is None:
        return
    for cell in result.cells:
        if cell.course is not msgspec.UNSET:
            tracks.setdefault(cell.track_id or 0, TrackRow()).add(result, cell)


def measure_cost_of_run(
    bundle: Path | None, frames: int, cells: int, interval_s: float
) -> None:
    """Show whether a frame costs more the longer a run lasts."""
    cv2.setNumThreads(1)
    cost = measure_cost(_parts(bundle), frames, cells, interval_s, click.echo)
    click.echo(
        f"{cells} cells, {frames} frames: {np.median(cost.spent_ms):.2f} ms of one "
        f"core per frame; last over frames from 100 on {cost.ratio:.3f}; memory "
        f"{cost.mb_per_hour:+.3f} MB per hour of {3600 / interval_s:.0f} frames"
    )


def measure_degraded(bundle: Path | None, alone: Path, clips: int, smooth: int) -> None:
    """Compare a memory with none on blurred, noisy and badly lit clips."""
    cv2.setNumThreads(1)
    memory = _parts(bundle).sequence
    if memory is None:
        raise click.UsageError("--bundle: no recurrent model; train one")
    click.echo(
        "| condition | memory | frame by frame | mean of frames | gain, points |"
    )
    click.echo("|---|---|---|---|---|")
    for g in measure_gain(memory, load_bundle(alone), clips, smooth):
        click.echo(
            f"| {g.condition} | {g.memory:.1f} | {g.alone:.1f} | {g.smoothed:.1f} | "
            f"{g.gain:+.1f} ({g.low:+.1f} to {g.high:+.1f}) |"
        )


def _override(source: SimulatedSettings, overrides: Sequence[str]) -> SimulatedSettings:
    """Replace settings of the microscope by `NAME=VALUE`.

    Raises
    ------
    UsageError
        There is no such setting, or it does not take the value.
    """
    changes = dict(override.partition("=")[::2] for override in overrides)
    try:
        return msgspec.convert(
            msgspec.structs.asdict(source) | changes, SimulatedSettings, strict=False
        )
    except msgspec.ValidationError as error:
        _, sentence = explain(str(error), changes, SimulatedSettings)
        raise click.UsageError(f"--set: {sentence}") from error


def _parts(bundle: Path | None) -> Parts:
    return read_parts(sequence=SequenceSettings(bundle=bundle))
