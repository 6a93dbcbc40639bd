from __future__ import annotations

from collections.abc import Callable

import cv2
import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.pipeline.quality_gate import QualityGate
from edge.schema.results import FrameResult, Quality
from edge.stages.detection import reduce
from edge.stages.image_quality import measure_quality
from tests.conftest import frame_result
from tests.edge.slide.slides import UM_PER_PX, Ground

Field = NDArray[np.uint8]


def result_of(field: Field, cells: int = 40) -> FrameResult:
    """What the pipeline would say of a frame, the cells apart."""
    reduced = reduce(field, 24 * UM_PER_PX / 7.5)
    return frame_result(cells, quality=measure_quality(reduced, reduced, None))


@pytest.fixture(scope="module")
def fields(ground: Ground) -> list[Field]:
    """Frames as a camera takes them, all over the slide."""
    found = []
    for number in range(30):
        random = np.random.default_rng(number)
        x, y = random.integers(0, (960, 600))
        part = ground.slide.transmittance[y : y + 300, x : x + 480]
        part = cv2.GaussianBlur(part, (0, 0), random.uniform(0.3, 1.0))
        noise = random.normal(0, 2, part.shape)
        found.append(np.clip(part * 0.9 + noise, 0, 255).astype(np.uint8))
    return found


@pytest.fixture
def gate(fields: list[Field]) -> QualityGate:
    """A gate that has seen good frames."""
    gate = QualityGate()
    judged = [gate.judge(result_of(field)) for field in fields]
    assert [one.status for one in judged] == ["ok"] * 30
    return gate


def blurred(field: Field) -> Field:
    return np.asarray(cv2.GaussianBlur(field, (0, 0), 1.2 / UM_PER_PX), np.uint8)


def moved(field: Field) -> Field:
    kernel = np.ones((1, round(4 / UM_PER_PX)), np.float32)
    return np.asarray(cv2.filter2D(field, -1, kernel / kernel.size), np.uint8)


def darkened(field: Field) -> Field:
    return np.asarray(field * 0.25, np.uint8)


def overexposed(field: Field) -> Field:
    return np.clip(field * 1.6, 0, 255).astype(np.uint8)


def emptied(field: Field) -> Field:
    noise = np.random.default_rng(0).normal(0, 2, field.shape)
    shading = np.linspace(190, 220, field.shape[1])[:, None]
    return np.clip(shading + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("degrade", "fault", "advice"),
    [
        (blurred, "blurred", "fine focus"),
        (moved, "moving", "hold the stage still"),
        (darkened, "dark", "more light"),
        (overexposed, "saturated", "lower the exposure"),
        (emptied, "empty", "nothing to count"),
    ],
)
def test_bad_frames_are_results_with_their_reason_and_no_cells(
    fields: list[Field],
    gate: QualityGate,
    degrade: Callable[[Field], Field],
    fault: str,
    advice: str,
) -> None:
    cells = 0 if fault == "empty" else 40
    for judge in (gate, QualityGate()):  # with learned limits and at the very start
        for field in fields[:5]:
            result = judge.judge(result_of(degrade(field), cells))

            assert (result.status, result.fault) == ("rejected", fault)
            assert result.reason is not None
            assert advice in result.reason
            assert result.cells == ()
            assert result.counts == {}
            assert result.quality is not None


def test_too_many_cells_are_turned_away(fields: list[Field], gate: QualityGate) -> None:
    result = gate.judge(result_of(fields[0], cells=800))

    assert (result.status, result.fault) == ("rejected", "crowded")


def test_a_field_with_one_cell_is_not_empty(
    fields: list[Field], gate: QualityGate
) -> None:
    bare = emptied(fields[0])
    bare[140:170, 200:230] = 120

    assert gate.judge(result_of(bare, cells=1)).fault != "empty"


def figures(**changes: float) -> FrameResult:
    usual = Quality(
        focus=0.4,
        saturated=0.0,
        background=(220.0, 220.0, 220.0),
        background_delta_e=None,
        brightness=0.85,
        motion=0.05,
        texture=0.04,
        covered=0.4,
    )
    return frame_result(quality=msgspec.structs.replace(usual, **changes))


def test_limits_are_learned_from_the_runs_own_good_frames() -> None:
    """What passes on a soft microscope is a fault on a sharp one."""
    sharp, soft = QualityGate(), QualityGate()
    for number in range(40):
        wiggle = 0.002 * (number % 5)
        sharp.judge(figures(focus=0.4 + wiggle))
        soft.judge(figures(focus=0.18 + wiggle))

    assert sharp.judge(figures(focus=0.18)).fault == "blurred"
    assert soft.judge(figures(focus=0.18)).status == "ok"


def test_a_bad_stretch_neither_opens_the_gate_nor_closes_it() -> None:
    gate = QualityGate()
    for _ in range(40):
        gate.judge(figures())
    before = gate.limits()

    for _ in range(1000):
        gate.judge(figures(focus=0.05))

    assert gate.limits() == before
    assert gate.judge(figures()).status == "ok"


def test_a_run_that_is_bad_from_its_start_is_not_learned() -> None:
    gate = QualityGate()
    faults = {gate.judge(figures(focus=0.05)).fault for _ in range(100)}

    assert faults == {"blurred"}


def test_rows_without_figures_pass() -> None:
    result = frame_result()

    assert QualityGate().judge(result) is result
