"""That the benchmark measures at all; what it measures is printed by `make bench`."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge.pipeline.parts import Parts
from edge.simulation.microscope import SimulatedMicroscope
from export.benchmark.interleaved_timing import Figure
from export.benchmark.run_throughput import faster_than_bound, measure_running
from export.benchmark.stages import measure_stages


def by_name(figures: list[Figure]) -> dict[str, float]:
    assert all(np.isfinite(figure.value) for figure in figures)
    return {figure.name: figure.value for figure in figures}


def test_every_stage_is_measured_as_a_ratio_to_a_copy(
    parts: Parts, microscope: SimulatedMicroscope
) -> None:
    figures = by_name(measure_stages([microscope.render(0)], parts, 0.07, rounds=2))

    assert len(figures) == 10
    assert figures["infer over copy"] > figures["decide over copy"] > 0
    assert figures["locate: reduce, correct, find over copy"] > 1


def test_the_run_process_is_measured_with_one_worker_and_with_several(
    parts: Parts, microscope: SimulatedMicroscope
) -> None:
    bgr = cv2.cvtColor(microscope.render(0), cv2.COLOR_RGB2BGR)
    encoded = [cv2.imencode(".jpg", bgr)[1].tobytes()]

    recorded = faster_than_bound(encoded, parts, 0.07, cores=2)
    figures = by_name(measure_running(recorded, parts, cores=2, frames=8))

    assert recorded.rate_hz > figures["serial, one worker"] > 0
    assert figures["throughput over bound, 2 workers"] > 0
    assert figures["p50 latency over serial latency"] > 0


def test_what_a_laboratory_would_put_together_names_the_cells_of_a_frame(
    parts: Parts, microscope: SimulatedMicroscope
) -> None:
    pytest.importorskip("torchstain")
    from export.benchmark.reference_pipeline import ReferencePipeline

    frame = microscope.render(0)
    record = parts.classifier.record
    peer = ReferencePipeline(
        frame, record.family, len(record.classes), record.input.size_px
    )

    normal = peer.normalise(frame)
    boxes = peer.locate(normal)
    shares = peer.classify(normal, boxes)

    assert len(boxes) > 10
    assert shares.shape == (len(boxes), len(record.classes))
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert b"\xff\xd8" in peer.examine(frame)  # the picture behind the JSON
