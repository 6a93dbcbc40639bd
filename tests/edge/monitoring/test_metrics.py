from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import UNSET

from edge.monitoring.metrics import (
    FilledFrames,
    Meter,
    read_metrics,
    write_metrics,
)
from edge.pipeline.empty_results import empty_result


def test_filler_bytes_are_counted_for_each_camera(tmp_path: Path) -> None:
    meter, row = Meter(), empty_result("rejected", "blurred")
    for camera, source, filler in (
        ("usb-1", "opencv:usb-1", 3),
        ("usb-1", "opencv:usb-1", UNSET),
        ("usb-1", "opencv:usb-1", 5),
        (None, "folder:a/1.jpg", 2),
        (None, "folder:a/2.jpg", 2),
    ):
        meter.count(
            msgspec.structs.replace(
                row, camera=camera, source=source, filler_bytes=filler
            )
        )
    write_metrics(tmp_path, meter.read(tmp_path, queue=0, is_paused=False))
    metrics = read_metrics(tmp_path)

    assert metrics is not None
    assert metrics.filled == {
        "usb-1": FilledFrames(frames=2, bytes=8),
        "folder": FilledFrames(frames=2, bytes=4),
    }
