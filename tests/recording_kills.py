"""Kill `hemascope run` at random moments while it records, and read what is left.

    python -m tests.recording_kills --kills 20 [--bioformats bioformats_package.jar]

    python -m tests.recording_kills --kills 20 --format ome-zarr

Every OME-TIFF must be read alike by tifffile, by libtiff (through OpenCV) and, where
its jar is given, some by Bio-Formats, every OME-Zarr by zarr-python and by TensorStore,
without anything being mended; a replay must say what the ledger says, to the last bit.
What the ledger has and the recording has not is counted.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import tifffile

from edge.frames import Counts
from edge.ledger.reader import LedgerReader
from edge.pipeline.parts import parts_of
from edge.recording.format import SETTINGS, Recording, recorded_frames_in, recordings_in
from edge.replay.comparison import Comparison, compare, results_of
from edge.replay.replay import replay
from edge.schema.codec import read_toml, write_toml
from edge.settings.files import DeviceFile, ReplaySettings
from edge.settings.models import SequenceSettings
from edge.settings.run import Format, LedgerSettings, RecordingSettings, RunSettings
from edge.settings.sources import SimulatedSettings
from edge.settings.timelapse import TrackingSettings
from tests.readers import by_tensorstore, by_zarr

_ROWS_SAID = 3  # of differences
_EVERY = 4  # of so many recordings one is read by Bio-Formats, which takes long


def kill_at_random(
    folder: Path, kills: int, seed: int, kind: Format, bioformats: Path | None
) -> dict[str, object]:
    """Return what became of the recordings; raises `AssertionError` if one is bad."""
    rng = random.Random(seed)  # noqa: S311
    write_toml(folder / "device.toml", _device(folder, kind))
    recordings = folder / "recordings"
    figures: Counter[str] = Counter()
    for number in range(kills):
        process = _start(folder)
        is_early = rng.random() < 0.1  # before there is any frame, it may be
        while not _began(recordings, number, is_early) and process.poll() is None:
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 6.0))
        assert process.poll() is None, (folder / "run.log").read_text()[-2000:]
        process.send_signal(signal.SIGKILL)
        process.wait()
        is_read_by_all = number % _EVERY == 0
        reader = bioformats if is_read_by_all else None
        read = _read(recordings_in(recordings)[-1], reader)
        figures.update(read)
        sys.stderr.write(f"{number + 1}: {dict(read)}\n")
    for number, recording in enumerate(recordings_in(recordings)):
        found = _replay(recording, folder / "ledger", folder / f"replay-{number}")
        assert not found.different, found.different[:_ROWS_SAID]
        assert found.partly_same == 0, found.not_compared
        figures["rows replayed the same"] += found.same
        figures["recordings that end before the ledger"] += len(found.not_compared)
    reader = LedgerReader(folder / "ledger")
    figures["rows of results in the ledger"] = sum(1 for _ in results_of(reader))
    reader.close()
    return {"kills": kills, **figures}


def _began(recordings: Path, number: int, is_early: bool) -> bool:
    """Whether recording `number` has begun, or has a frame."""
    found = recordings_in(recordings)
    return len(found) > number and (is_early or bool(found[number].files))


def _device(folder: Path, kind: Format) -> DeviceFile:
    return DeviceFile(
        device="scope-01",
        source=SimulatedSettings(
            width_px=640,
            height_px=480,
            pixel_size_um=0.1,
            rate_hz=8,
            drop_share=0.1,
            hand_move_every_s=2.0,
        ),
        ledger=LedgerSettings(folder / "ledger"),
        run=RunSettings(workers=2),
        tracking=TrackingSettings(),
        sequence=SequenceSettings(),
        recording=RecordingSettings(
            folder / "recordings", format=kind, least_free_gb=0.5
        ),
    )


def _start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "edge", "run"]
    with (folder / "run.log").open("ab") as log:
        return subprocess.Popen(
            [*command, "--config", str(folder / "device.toml")], stdout=log, stderr=log
        )


def _read(recording: Recording, bioformats: Path | None) -> Counter[str]:
    """Read every file by all readers, as it lies there."""
    figures: Counter[str] = Counter()
    for path in recording.files:
        ours = np.stack(
            [r.stored_frame.read() for r in recorded_frames_in(path) if r.stored_frame]
        )
        figures["files"] += 1
        if path.is_dir():
            seen = by_zarr(path)
            assert np.array_equal(seen, ours)
            assert np.array_equal(by_tensorstore(path), ours)
            figures["frames read alike"] += len(seen)
            continue
        with tifffile.TiffFile(path) as tiff:
            seen = tiff.series[0].asarray()
            assert tiff.is_ome
        seen = seen.reshape(-1, *seen.shape[-3:])
        _, pages = cv2.imreadmulti(str(path), flags=cv2.IMREAD_UNCHANGED)
        assert np.array_equal(np.stack(pages)[..., ::-1], ours)
        assert np.array_equal(seen, ours[: len(seen)])
        assert len(ours) - len(seen) in (0, 1), "killed between link and description"
        figures["frames read alike"] += len(seen)
        figures["frames linked and not described yet"] += len(ours) - len(seen)
        if bioformats is not None:
            copied = _by_bioformats(path, bioformats)
            assert np.array_equal(copied, seen)
            figures["frames read by Bio-Formats"] += len(seen)
    return figures


def _by_bioformats(path: Path, jar: Path) -> Counts:
    """Let Bio-Formats read every plane and write it again; return what it wrote."""
    copy = path.with_name("copy.ome.tif")
    command = ["java", "-Djava.awt.headless=true", "-cp", str(jar)]
    command += ["loci.formats.tools.ImageConverter", "-no-upgrade", "-overwrite"]
    done = subprocess.run(
        [*command, str(path), str(copy)], capture_output=True, text=True, check=False
    )
    assert "[OME-TIFF] -> " in done.stdout, done.stdout[-2000:] + done.stderr
    seen = tifffile.imread(copy)  # one plane for each colour
    copy.unlink()
    return np.moveaxis(seen.reshape(-1, *seen.shape[-3:]), 1, -1)


def _replay(recording: Recording, ledger: Path, out: Path) -> Comparison:
    settings = read_toml(recording.folder / SETTINGS, ReplaySettings)
    replay(recording, parts_of(settings), settings, out, threading.Event())
    return compare(recording, ledger, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", choices=get_args(Format), default="ome-tiff")
    parser.add_argument("--bioformats", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hemascope-kills-") as made:
        told = kill_at_random(
            Path(made),
            options.kills,
            options.seed,
            options.format,
            options.bioformats,
        )
    sys.stdout.write(json.dumps(told, indent=2) + "\n")
