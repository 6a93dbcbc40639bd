"""Kill a scheduled run at random moments, and hold what it wrote against the plan.

    python -m tests.schedule_kills --kills 20

The run must stay the same one, no planned frame may stand twice, each must be examined
or named in a gap, and no track may get the number of an earlier one that was over.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from edge.ledger.reader import LedgerReader
from edge.ledger.rows import LedgerDamaged
from edge.schema.codec import write_toml
from edge.schema.entries import Entry, RunMark
from edge.schema.results import Result
from edge.settings.files import DeviceFile
from edge.settings.models import SequenceSettings
from edge.settings.run import LedgerSettings, RunSettings
from edge.settings.sources import SimulatedSettings
from edge.settings.timelapse import PauseSettings, ScheduleSettings, TrackingSettings
from tests.asking import DEVICE, rows_in


def kill_at_random(
    folder: Path,
    kills: int,
    seed: int,
    *,
    interval_s: float = 0.5,
    points: int = 400,
    frames_per_point: int = 1,
) -> dict[str, object]:
    """Return figures of the run; raises `AssertionError` where one is not right."""
    rng = random.Random(seed)  # noqa: S311
    config = folder / "device.toml"
    write_toml(
        config,
        DeviceFile(
            device=DEVICE,
            source=SimulatedSettings(
                width_px=480,
                height_px=360,
                pixel_size_um=0.15,
                rate_hz=20,
                drift_um_per_s=0.2,
                hand_move_every_s=0,
            ),
            ledger=LedgerSettings(folder / "ledger"),
            run=RunSettings(workers=1),
            tracking=TrackingSettings(),
            sequence=SequenceSettings(),
            pauses=PauseSettings(reset_after_s=30),
            schedule=ScheduleSettings(
                interval_s=interval_s, points=points, frames_per_point=frames_per_point
            ),
        ),
    )
    died = 0
    process = _start(folder, config)
    try:
        for _ in range(kills):
            _wait_for_rows(folder, process)
            time.sleep(rng.uniform(0.0, 4.0))
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            died += 1
            process = _start(folder, config)
        assert process.wait(timeout=points * interval_s + 120) == 0, _log(folder)
    finally:
        process.kill()
        process.wait()
    return verdict(folder / "ledger", points, frames_per_point, died)


def _start(folder: Path, config: Path) -> subprocess.Popen[bytes]:
    with (folder / "run.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "edge", "run", "--config", str(config)],
            stdout=log,
            stderr=log,
        )


def _wait_for_rows(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until the process writes, so that it is killed at work and not at start."""
    before = _rows(folder)
    while _rows(folder) <= before and process.poll() is None:
        time.sleep(0.05)


def _rows(folder: Path) -> int:
    try:
        with closing(LedgerReader(folder / "ledger")) as reader:
            return reader.span()[1]
    except LedgerDamaged:  # not there yet
        return 0


def _log(folder: Path) -> str:
    return (folder / "run.log").read_text(encoding="utf-8")[-2000:]


def verdict(
    ledger: Path, points: int | None, frames_per_point: int, kills: int
) -> dict[str, object]:
    """Hold the rows against the plan; `points` is None where it is not over yet."""
    rows = rows_in(ledger)
    marks = [r.entry for r in rows if isinstance(r, Entry)]
    marks = [mark for mark in marks if isinstance(mark, RunMark)]
    phases = [mark.phase for mark in marks]
    ends = [] if points is None else ["end"]
    assert phases == ["start", *["resumed"] * kills, *ends], phases
    assert len({mark.run for mark in marks}) == 1, "the run is another one"
    results = [row for row in rows if isinstance(row, Result)]
    assert {row.run for row in results} == {marks[0].run}
    taken = Counter(
        (row.point.index, row.point.frame) for row in results if row.point is not None
    )
    assert max(taken.values()) == 1, "a planned frame stands twice"
    missed = Counter(
        frame for row in results for frame in _missed(row, frames_per_point)
    )
    assert max(missed.values(), default=1) == 1, "one is missed twice"
    assert not taken & missed, "one is taken and missed"
    last = max([*taken, *missed]) if points is None else (points - 1, frames_per_point)
    planned = {
        (index, frame)
        for index in range(last[0] + 1)
        for frame in range(frames_per_point)
        if (index, frame) <= last
    }
    assert set(taken) | set(missed) == planned, "one is neither taken nor missed"
    order = [row.point.index for row in results if row.point is not None]
    assert order == sorted(order)
    _check_due_times(results)
    late_ms = [row.point.late_ms for row in results if row.point is not None]
    return {
        "kills": kills,
        "planned": len(planned),
        "taken": len(taken),
        "missed": len(missed),
        "tracks": _tracks(rows),
        "late_ms": {
            "least": min(late_ms),
            "median": round(float(np.median(late_ms)), 1),
            "p99": round(float(np.percentile(late_ms, 99)), 1),
            "most": max(late_ms),
        },
        "away_s": [mark.lost.away_s for mark in marks if mark.lost is not None],
    }


def _missed(row: Result, frames_per_point: int) -> Iterator[tuple[int, int]]:
    """Yield the planned frames that a gap names: the last of them, of each point."""
    missed = row.missed_points
    if missed is None:
        return
    every = [
        (index, frame)
        for index in range(missed.first, missed.last + 1)
        for frame in range(frames_per_point)
    ]
    yield from every[len(every) - missed.frames :]


def _check_due_times(results: list[Result]) -> None:
    """The schedule of the run is one: every point is due at its own time after 0."""
    points = [row.point for row in results if row.point is not None]
    zero = {round(p.due.timestamp() - p.index * _interval_s(points), 3) for p in points}
    assert max(zero) - min(zero) < 0.002, zero
    for row in results:
        if row.point is not None:
            late_ms = (row.utc - row.point.due).total_seconds() * 1e3
            assert abs(late_ms - row.point.late_ms) < 50, "wall and monotonic disagree"


def _interval_s(points: list[object]) -> float:
    return next(p.next_s for p in points if p.next_s is not None)  # type: ignore[attr-defined]


def _tracks(rows: list[Result | Entry]) -> int:
    """How many tracks there are.

    In a later process none may come again but those of the last frame before.
    """
    seen: set[int] = set()
    of_this_process: set[int] = set()
    last: set[int] = set()
    for row in rows:
        if isinstance(row, Entry):
            if isinstance(row.entry, RunMark) and row.entry.phase == "resumed":
                seen |= of_this_process - last
                of_this_process = set(last)
            continue
        if row.following is None:
            continue
        last = {cell.track_id for cell in row.cells if cell.track_id is not None}
        assert not last & seen, f"tracks {last & seen} are given twice"
        of_this_process |= last
    return len(seen | of_this_process)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--points", type=int, default=400)
    parser.add_argument("--interval", type=float, default=0.5)
    parser.add_argument("--frames-per-point", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hemascope-schedule-") as made:
        figures = kill_at_random(
            Path(made),
            options.kills,
            options.seed,
            points=options.points,
            interval_s=options.interval,
            frames_per_point=options.frames_per_point,
        )
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
