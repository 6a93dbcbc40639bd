"""What recording costs: per frame, on the disk, and in results.

    python -m tests.recording_cost [--folder ON_THE_DISK] [--fields FOLDER_OF_IMAGES]

The loop is measured in turns without and with recording, so that other work on the
machine hits all alike. Frames lie in memory: no camera and no decoding is measured.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import cv2

from edge.clock import utc_of
from edge.frames import Counts, Exposure, Gap, RawFrame, Shot
from edge.ledger.preview_file import PreviewWriter
from edge.ledger.writer import Ledger
from edge.pipeline.parts import Parts, read_parts
from edge.recording.format import Frame
from edge.recording.frame_files import create, encode_frame
from edge.recording.ome_xml import OmeImage, OmePlane
from edge.recording.recorder import Recorder
from edge.recording.writer import RecordingWriter
from edge.run.service import RunCollaborators, Service
from edge.schema.codec import encode
from edge.settings.run import Compression, Format, RecordingSettings, RunSettings
from edge.settings.sources import SimulatedSettings
from edge.simulation.microscope import SimulatedMicroscope
from edge.sources.image_files import read_image
from tests.edge.recording.test_recording import head

HOW: dict[str, tuple[Format, Compression]] = {
    "none": ("ome-tiff", "none"),
    "deflate": ("ome-tiff", "deflate"),
    "OME-Zarr, deflate": ("ome-zarr", "deflate"),
}
_FRAMES = 24


@dataclass
class Shown:
    """A live camera that shows frames from memory, at a rate; 0 is at once."""

    frames: Sequence[Counts]
    rate_hz: float
    number: int = 0
    due_s: float = 0.0
    is_live: bool = True

    def read(self, timeout_s: float) -> Exposure | Gap | None:
        if self.rate_hz:
            time.sleep(max(0.0, self.due_s - time.monotonic()))
            self.due_s = max(self.due_s, time.monotonic() - 1) + 1 / self.rate_hz
        else:
            time.sleep(0.001)
        now_ns = time.monotonic_ns()
        shot = Shot(self.number, now_ns, utc_of(now_ns), "m", pixel_size_um=0.07)
        pixels = self.frames[self.number % len(self.frames)]
        self.number += 1
        return Exposure(shot, lambda: RawFrame(shot, pixels))

    def close(self) -> None:
        pass


def per_frame(folder: Path, name: str, frames: Sequence[Counts]) -> None:
    """Print what it costs to encode a frame and to write it to the disk."""
    height, width, _ = frames[0].shape
    image = OmeImage(name, utc_of(0), width, height, "uint8", 0.07, "hemascope", {})
    note = encode(Frame(seq=1, shot=Shot(1, 1, utc_of(0), "m")))
    for number, (how, (kind, compression)) in enumerate(HOW.items()):
        encoding, writing, sizes = [], [], []
        (folder / name).mkdir(exist_ok=True)
        file = create(folder / name, number, kind)
        for done, pixels in enumerate(
            itertools.islice(itertools.cycle(frames), _FRAMES), 1
        ):
            start_s = time.thread_time()
            encoded = encode_frame(pixels, kind, compression)
            encoding.append(time.thread_time() - start_s)
            before, encoded_s = file.size, time.perf_counter()
            file.append(
                [(encoded, note)], image, [OmePlane(n, 4.0) for n in range(done)]
            )
            writing.append(time.perf_counter() - encoded_s)
            sizes.append(file.size - before)
        file.close()
        raw, size = frames[0].nbytes / 1e6, median(sizes) / 1e6
        core_ms, write_ms = median(encoding) * 1e3, median(writing) * 1e3
        sys.stdout.write(
            f"{name} {how}: {raw:.2f} MB become {size:.2f}, "
            f"encoded in {core_ms:.0f} ms of a core, written in {write_ms:.1f} ms "
            f"({size / write_ms * 1e3:.0f} MB/s)\n"
        )


def loop(
    folder: Path, parts: Parts, frames: Sequence[Counts], *, seconds: float, turns: int
) -> None:
    """Print how many results there are without and with recording, in turns."""
    for rate_hz, what in ((0.0, "as fast as it goes"), (1.0, "one frame per second")):
        seen: dict[str, list[tuple[float, float, int]]] = {}
        for turn, how in itertools.product(range(turns), ("off", *HOW)):
            place = folder / f"{rate_hz}-{turn}-{how}"
            result = _run(place, parts, Shown(frames, rate_hz), how, seconds)
            seen.setdefault(how, []).append(result)
        for how, told in seen.items():
            results, recorded, lost = (median(t[n] for t in told) for n in range(3))
            sys.stdout.write(
                f"{what}, recording {how}: {results:.2f} results/s, "
                f"{recorded:.2f} frames/s recorded, {lost:.0f} lost in {seconds:.0f} s "
                f"(results of each turn: {', '.join(f'{t[0]:.2f}' for t in told)})\n"
            )


def _run(
    folder: Path, parts: Parts, source: Shown, how: str, seconds: float
) -> tuple[float, float, int]:
    recorder = None
    if how != "off":
        kind, compression = HOW[how]
        settings = RecordingSettings(
            folder / "recordings", format=kind, compression=compression, least_free_gb=1
        )
        recorder = Recorder(RecordingWriter(settings, head, lambda into: None))
    stop, begin_s, rows = threading.Event(), 0.0, 0

    def count(*_: object) -> None:
        nonlocal begin_s, rows
        begin_s = begin_s or time.monotonic()
        rows += 1
        if time.monotonic() - begin_s > seconds:
            stop.set()

    with closing(Ledger(folder / "ledger", "scope-01")) as ledger:
        service = Service(
            source,
            parts.open_pipeline,
            ledger,
            PreviewWriter(folder / "ledger", 0),
            RunSettings(),
            keep_rows=1000,
            collaborators=RunCollaborators(recorder=recorder),
        )
        service.run(stop, on_row=count)
    recorded, lost = (recorder.recorded, recorder.lost) if recorder else (0, 0)
    return rows / seconds, recorded / seconds, lost


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--fields", type=Path, action="append", default=[])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    bench = SimulatedMicroscope(SimulatedSettings(rate_hz=0, seed=3)).connect()
    made_of = [bench.read(1.0) for _ in range(8)]
    fields = [e.develop().pixels for e in made_of if isinstance(e, Exposure)]
    with tempfile.TemporaryDirectory(dir=options.folder) as made:
        per_frame(Path(made), "simulated", fields)
        for images in options.fields:
            found = sorted(p for p in images.rglob("*") if p.suffix in (".jpg", ".png"))
            per_frame(Path(made), images.name, [read_image(p) for p in found[:8]])
        loop(
            Path(made),
            read_parts(),
            fields,
            seconds=options.seconds,
            turns=options.turns,
        )
