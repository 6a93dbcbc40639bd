from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge.artifacts.bundle import CellClass
from edge.artifacts.profile import Profile, ProfileMismatch, ProfileRecord, save_profile
from edge.errors import FrameRejected
from edge.frames import Exposure
from edge.pipeline.parts import Parts
from edge.pipeline.pipeline import Pipeline
from edge.pipeline.pixel_size import Scale
from edge.schema.codec import decode, encode
from edge.schema.results import Controls, FrameResult
from edge.simulation.microscope import SimulatedMicroscope
from edge.taxonomy import ONTOLOGY, UNIDENTIFIED
from tests.conftest import exposure_of, shot


@pytest.fixture(scope="module")
def pipeline(parts: Parts) -> Iterator[Pipeline]:
    opened = parts.open_pipeline()
    yield opened
    opened.close()


def test_a_simulated_field_is_read_rightly(
    pipeline: Pipeline, microscope: SimulatedMicroscope
) -> None:
    result = pipeline.examine(exposure_of(microscope.render(0))).result

    truth = microscope.truth(0, least_visible=0.6)
    right = 0
    for cell in truth:
        near = [c for c in result.cells if _overlap(c.box, cell.box) > 0.5]
        right += any(c.label == cell.label for c in near)
    assert len(truth) > 8
    assert right >= len(truth) - 1
    assert result.status == "ok"
    assert result.counts == {
        label: sum(c.label == label for c in result.cells) for label in result.counts
    }
    assert result.pixel_size_um == 0.07
    assert result.pixel_size_origin == "source"
    assert result.model == pipeline.classifier.id
    assert result.calibration_id is None
    assert set(result.timings_ms) == {
        "develop",
        "reduce",
        "correct",
        "locate",
        "crop",
        "infer",
        "decide",
        "quality",
    }


def _overlap(a: tuple[int, ...], b: tuple[float, ...]) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    both = float(np.prod(np.clip(high - low, 0, None)))
    area = np.prod(np.subtract(a[2:], a[:2])) + np.prod(np.subtract(b[2:], b[:2]))
    return both / float(area - both)


def test_what_is_said_of_a_cell_is_complete_and_consistent(
    pipeline: Pipeline, microscope: SimulatedMicroscope
) -> None:
    result = pipeline.examine(exposure_of(microscope.render(0))).result

    for number, cell in enumerate(result.cells):
        assert cell.id == number
        x0, y0, x1, y1 = cell.box
        assert 0 <= x0 < x1 <= 640
        assert 0 <= y0 < y1 <= 480
        assert sum(cell.probabilities.values()) == pytest.approx(1, abs=2e-3)
        assert cell.confidence == max(cell.probabilities.values())
        if cell.abstained:
            assert cell.label == UNIDENTIFIED
        else:
            assert cell.probabilities[cell.label] == cell.confidence
            assert cell.ontology == ONTOLOGY[cell.label]
    assert decode(encode(result), FrameResult) == result


def test_the_same_frame_gives_the_same_answer(
    pipeline: Pipeline, microscope: SimulatedMicroscope
) -> None:
    frame = microscope.render(0)

    one, two = (pipeline.examine(exposure_of(frame)).result for _ in range(2))

    assert one.cells == two.cells


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("is_calibrated", [False, True])
def test_an_empty_field_is_a_result_without_cells(
    pipeline: Pipeline, dtype: type[np.integer], is_calibrated: bool
) -> None:
    full = np.iinfo(dtype).max
    empty = np.full((480, 640, 3), int(0.92 * full), dtype)
    if is_calibrated:
        white = (0.94 * full, 0.93 * full, 0.9 * full)
        flat = np.full((30, 40, 3), 0.98, np.float32)
        profile = Profile(ProfileRecord(white_point=white), flat, "0" * 64)
        pipeline = replace(pipeline, profile=profile)

    result = pipeline.examine(exposure_of(empty)).result

    assert result.status == "ok"
    assert [c for c in result.cells if c.label != "Plasma"] == []


@pytest.mark.parametrize("level", [0, 255])
def test_a_black_or_white_frame_is_examined_like_any_other(
    pipeline: Pipeline, level: int
) -> None:
    result = pipeline.examine(exposure_of(np.full((64, 64, 3), level, np.uint8))).result

    assert result.quality is not None
    assert result.quality.saturated == (level == 255)


def test_without_a_locator_the_whole_field_is_one_region(
    parts: Parts, microscope: SimulatedMicroscope
) -> None:
    whole = replace(parts, locator=None).open_pipeline()

    result = whole.examine(exposure_of(microscope.render(0))).result

    assert [cell.box for cell in result.cells] == [(0, 0, 640, 480)]
    assert result.locator is None


def test_sixteen_bit_frames_are_read_like_eight_bit_ones(
    pipeline: Pipeline, microscope: SimulatedMicroscope
) -> None:
    frame = microscope.render(0)
    deep = frame.astype(np.uint16) * 257

    eight = pipeline.examine(exposure_of(frame)).result
    sixteen = pipeline.examine(exposure_of(deep)).result

    assert sixteen.counts == eight.counts


def test_a_profile_undoes_what_the_lamp_did(
    parts: Parts, microscope: SimulatedMicroscope, tmp_path: Path
) -> None:
    """The same field under another lamp, with that lamp's profile: the same colours."""
    frame = microscope.render(0)
    gain = np.array([0.9, 0.75, 0.6])
    lamp = np.rint(frame * gain).astype(np.uint8)
    white = tuple((255 * gain).tolist())
    calibrated = replace(
        parts, profile=save_profile(tmp_path, ProfileRecord(white_point=white))
    )

    plain = parts.open_pipeline().examine(exposure_of(frame)).result
    corrected = calibrated.open_pipeline().examine(exposure_of(lamp)).result

    assert corrected.calibration_id is not None
    assert corrected.quality is not None
    assert plain.quality is not None
    np.testing.assert_allclose(
        corrected.quality.background, plain.quality.background, atol=2
    )
    labels = [c.label for c in plain.cells if c.confidence > 0.8]
    again = [c.label for c in corrected.cells if c.confidence > 0.8]
    assert abs(len(labels) - len(again)) <= 2


def test_a_frame_of_another_size_than_the_profile_is_refused(
    parts: Parts, tmp_path: Path
) -> None:
    record = ProfileRecord(width_px=1920, height_px=1200)
    pipeline = replace(parts, profile=save_profile(tmp_path, record)).open_pipeline()

    with pytest.raises(ProfileMismatch, match="640x480"):
        pipeline.examine(exposure_of(np.zeros((480, 640, 3), np.uint8)))


def test_a_frame_that_arrives_damaged_is_rejected(pipeline: Pipeline) -> None:
    def fail() -> None:
        raise FrameRejected("cut short")

    with pytest.raises(FrameRejected):
        pipeline.examine(Exposure(shot(), fail))  # type: ignore[arg-type]


def test_more_cells_than_can_be_said_are_cut_loudly(
    pipeline: Pipeline, microscope: SimulatedMicroscope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.pipeline.frame_record.MAX_CELLS", 5)

    result = pipeline.examine(exposure_of(microscope.render(0))).result

    assert len(result.cells) == 5
    assert result.status == "degraded"
    assert result.reason is not None
    assert "5 are in the row" in result.reason


def test_kinds_of_white_cells_are_given_to_white_cells_alone(
    pipeline: Pipeline, microscope: SimulatedMicroscope
) -> None:
    """A model that knows no red cell must not be asked what a red cell is."""
    kinds = ("neutrophil", "lymphocyte", "monocyte", "eosinophil")
    classes = tuple(CellClass(name=name, ontology=None) for name in kinds)
    record = msgspec.structs.replace(pipeline.classifier.record, classes=classes)
    first = pipeline.classifiers[0]
    named = replace(first, bundle=replace(first.bundle, record=record))
    subtypes = replace(pipeline, classifiers=(named,))
    frames = [exposure_of(microscope.render(90 * number)) for number in range(3)]

    white = [subtypes.examine(one).result.cells for one in frames]

    everything = [pipeline.examine(one).result.cells for one in frames]
    assert 0 < sum(map(len, white)) < 0.4 * sum(map(len, everything))
    assert {c.box for cells in white for c in cells} <= {
        c.box for cells in everything for c in cells
    }


def test_a_frame_whose_scale_is_not_settled_has_no_place(
    pipeline: Pipeline, microscope: SimulatedMicroscope
) -> None:
    unsettled = replace(pipeline, scale=Scale(None))
    frame = exposure_of(microscope.render(0), pixel_size_um=None)

    assert unsettled.examine(frame).thumbnail is None
    assert pipeline.examine(exposure_of(microscope.render(0))).thumbnail is not None


def test_a_camera_set_otherwise_than_at_calibration_is_degraded(
    pipeline: Pipeline, microscope: SimulatedMicroscope, tmp_path: Path
) -> None:
    at_8_ms, at_12_ms = (Controls(exposure_ms=ms, gain=1.0) for ms in (8.0, 12.0))
    profile = save_profile(tmp_path, ProfileRecord(controls=at_8_ms))
    assert profile.record.controls == at_8_ms
    calibrated = replace(pipeline, profile=profile)
    raw = exposure_of(microscope.render(0)).develop()

    def examine(controls: Controls | None, doubt: str | None = None) -> FrameResult:
        set_so = replace(raw.shot, camera="A17", controls=controls, doubt=doubt)
        exposure = Exposure(set_so, lambda: replace(raw, shot=set_so))
        return calibrated.examine(exposure).result

    good = examine(at_8_ms)
    assert (good.status, good.camera, good.controls) == ("ok", "A17", at_8_ms)
    assert examine(None).status == "ok"  # the driver of this camera does not tell
    other = examine(at_12_ms, "changed since the start: so and so")
    assert other.status == "degraded"
    assert other.reason == (
        "changed since the start: so and so; not as calibrated: exposure is 12 ms, was "
        "8 ms; set the camera back or calibrate again"
    )
    assert len(other.cells) == len(good.cells)
