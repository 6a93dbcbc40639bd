from __future__ import annotations

import dataclasses
import threading
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge.artifacts.bundle import MODEL
from edge.artifacts.profile import ConfidenceRecord, Profile
from edge.errors import ConfigurationInvalid
from edge.pipeline.parts import Parts
from edge.privacy import RunRefused, checked_note, checked_operator, checked_slide
from edge.run.composition import open_slide_counter
from edge.schema.codec import encode
from edge.schema.entries import RunMark
from edge.schema.results import Following, FrameResult
from edge.schema.row_limits import MAX_FOLLOWED_CELLS
from edge.settings.run import DifferentialSettings
from edge.settings.sources import SimulatedSettings
from edge.slide.confusion_correction import ConfusionFile
from edge.slide.run_state import RunState
from edge.slide.slide_counter import SlideCounter
from edge.stages.thumbnail import Thumbnail
from export.benchmark.slide.scan import scan
from tests.conftest import frame_result
from tests.edge.slide.slides import Ground

LABELS = ("RBC", "WBC", "Platelet", "Plasma")


@dataclasses.dataclass
class Slide:
    """A run and what counts its cells, as the run process uses them."""

    counter: SlideCounter
    runs: RunState = dataclasses.field(default_factory=RunState)


def new_run() -> Slide:
    return Slide(SlideCounter(LABELS, 0.5, 0.1))


def take(slide: Slide, result: FrameResult, view: Thumbnail | None) -> FrameResult:
    """What becomes of a frame on which no cells are followed."""
    run = slide.runs.run_of(result)
    result = msgspec.structs.replace(result, run=run.id)
    return slide.counter.count(slide.counter.judge(result, run), view)


def good_result(**changes: object) -> FrameResult:
    size: dict[str, object] = {"width_px": 480, "height_px": 300, "pixel_size_um": 0.28}
    return frame_result(4, **(size | changes))


@pytest.mark.parametrize("slide", ["S26-00123", "7", "HEM.0012_A", "B2-2026-4"])
def test_numbers_of_a_laboratory_are_slides(slide: str) -> None:
    assert checked_slide(slide) == slide


@pytest.mark.parametrize(
    "slide",
    [
        "",
        "Smith",
        "smith7",
        "Maria.Garcia-2",
        "1961-04-12",
        "12.04.1961",
        "19610412",
        "S1-12-04-61",
        "A1 B2",
        "A1\n",
        "A" * 3 + "1" * 40,
        "Ä1",
    ],
)
def test_what_may_name_a_patient_is_no_slide(slide: str) -> None:
    with pytest.raises(RunRefused, match="never a patient's name"):
        checked_slide(slide)


@pytest.mark.parametrize("operator", ["J. Smith", "Smith", "janesmith1", "", "7"])
def test_a_full_name_is_no_operator(operator: str) -> None:
    assert checked_operator("op7") == "op7"
    with pytest.raises(RunRefused, match="short code"):
        checked_operator(operator)


@pytest.mark.parametrize(
    "note", ["", "  ", "x" * 201, "two\nlines", "born 12.4.1961", "\x1b[2J", "19610412"]
)
def test_notes_are_short_plain_and_without_dates(note: str) -> None:
    assert checked_note(" edge of the smear ") == "edge of the smear"
    with pytest.raises(RunRefused):
        checked_note(note)


def test_a_run_is_started_noted_on_and_ended_in_order() -> None:
    slide = new_run()
    first = slide.runs.start_run("S26-1", "op7", "oil is fresh")
    slide.runs.add_note("thick here")
    second = slide.runs.start_run("S26-2")
    slide.runs.end_run()

    marks = [(m.run, m.phase, m.slide, m.text) for m in slide.runs.take_marks()]

    assert marks == [
        (first, "start", "S26-1", "oil is fresh"),
        (first, "note", None, "thick here"),
        (first, "end", None, None),
        (second, "start", "S26-2", None),
        (second, "end", None, None),
    ]
    assert slide.runs.run is None
    for command in (slide.runs.end_run, lambda: slide.runs.add_note("late")):
        with pytest.raises(RunRefused, match="no run is under way"):
            command()


def test_a_refused_start_leaves_the_run_as_it_is() -> None:
    slide = new_run()
    run = slide.runs.start_run("S26-1")

    with pytest.raises(RunRefused):
        slide.runs.start_run("Maria Garcia")

    assert slide.runs.run == run
    assert len(slide.runs.take_marks()) == 1


def test_runs_may_be_started_from_many_threads() -> None:
    slide = new_run()
    threads = [
        threading.Thread(target=lambda: [slide.runs.start_run("S1") for _ in range(50)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    kinds = [mark.phase for mark in slide.runs.take_marks()]

    assert kinds == ["start", *["end", "start"] * 199]


def test_without_a_run_nothing_is_counted(ground: Ground) -> None:
    slide = new_run()

    taken = take(slide, good_result(), ground.view(0, 0))

    assert (taken.run, taken.differential) == (None, None)


def test_frames_are_of_the_run_whose_start_is_written(ground: Ground) -> None:
    slide = new_run()
    run = slide.runs.start_run("S26-1")

    assert take(slide, good_result(), ground.view(0, 0)).run is None
    slide.runs.take_marks()
    assert take(slide, good_result(), ground.view(0, 0)).run == run


def test_another_slide_counts_from_nothing(ground: Ground) -> None:
    slide, totals = new_run(), []
    middle = tuple(
        msgspec.structs.replace(cell, box=(200 + 9 * n, 150, 208 + 9 * n, 158))
        for n, cell in enumerate(good_result().cells)
    )
    for _ in range(2):
        slide.runs.start_run("S26-1")
        slide.runs.take_marks()
        for _ in range(2):
            one = msgspec.structs.replace(good_result(), cells=middle)
            found = take(slide, one, ground.view(0, 0)).differential
            assert found is not None
            totals.append(found.total)

    assert totals == [4, 4, 4, 4]


def test_a_run_that_goes_on_counts_since_its_first_frame(ground: Ground) -> None:
    slide, run = new_run(), "20260101T000000Z-000001"
    slide.runs.adopt([RunMark(run=run, phase="resumed")])
    later = good_result(utc=good_result().utc + timedelta(seconds=9))

    counted = [take(slide, one, ground.view(0, 0)) for one in (good_result(), later)]
    slide.runs.adopt(slide.runs.starting("S26-2"))
    fresh = take(slide, later, ground.view(0, 0))

    assert [c.differential and c.differential.since for c in counted] == [
        good_result().utc
    ] * 2
    assert fresh.differential is not None
    assert fresh.differential.since is None


def test_rejected_frames_and_frames_of_unknown_scale_are_not_counted(
    ground: Ground,
) -> None:
    slide = new_run()
    slide.runs.start_run()
    slide.runs.take_marks()

    for one, view in (
        (good_result(), None),
        (good_result(status="rejected"), ground.view(0, 0)),
    ):
        taken = take(slide, one, view)
        assert taken.differential is not None
        assert taken.differential.total == 0
        assert taken.differential.place_um is None


def test_a_frame_with_cells_left_out_counts_nothing(ground: Ground) -> None:
    run = new_run()
    run.runs.start_run()
    run.runs.take_marks()
    followed = Following(continuity="continuous", tracks=0)
    size: dict[str, object] = {"width_px": 480, "height_px": 300, "pixel_size_um": 0.28}
    full = frame_result(
        MAX_FOLLOWED_CELLS, following=followed, reason="800 cells", **size
    )

    crowded = take(run, full, ground.view(0, 0))
    whole = take(run, good_result(following=followed), ground.view(0, 0))

    assert crowded.differential is not None
    assert crowded.differential.patches == 0
    assert crowded.reason == "800 cells; nothing is counted on it"
    assert whole.differential is not None
    assert whole.differential.patches == 1


def test_the_whole_instrument_counts_every_cell_once(parts: Parts) -> None:
    """Jumps and returns on a slide of known truth, through the whole pipeline."""
    settings = SimulatedSettings(
        width_px=480,
        height_px=300,
        pixel_size_um=0.28,
        rate_hz=1.0,
        drift_um_per_s=6.0,
        hand_move_every_s=2.0,
        slide_frames=2.2,
        is_endless=False,
        seed=1,
    )

    found = scan(settings, parts, frames=30)

    assert found.returns > 3
    assert found.jumps > 0, found
    assert found.twice == 0
    assert found.truth.total() > 150
    assert found.counted["WBC"] == found.truth["WBC"] > 3
    assert abs(found.counted["RBC"] - found.truth["RBC"]) <= 0.02 * found.truth["RBC"]
    for one in found.differential.classes:
        assert one.exact.low <= one.exact.share <= one.exact.high
    encode(found.differential)


def test_a_confusion_file_must_be_of_the_model_that_counts(
    parts: Parts, tmp_path: Path
) -> None:
    path = tmp_path / "confusion.json"
    good = ConfusionFile(LABELS[:3], ((97, 2, 1), (1, 98, 1), (3, 1, 96)))
    path.write_bytes(encode(good))
    assert open_slide_counter(parts, DifferentialSettings(confusion=path)) is not None

    path.write_bytes(encode(ConfusionFile(("a", "b"), ((9, 1), (1, 9)))))
    with pytest.raises(ConfigurationInvalid, match="Platelet"):
        open_slide_counter(parts, DifferentialSettings(confusion=path))


def test_cells_are_counted_as_unidentified_by_the_rule_of_the_site(
    parts: Parts,
) -> None:
    model, calibrated = parts.classifier, parts.profile
    site = ConfidenceRecord(
        model=model.record.files[MODEL],
        classes=model.labels,
        scale=(1.0,) * len(model.labels),
        bias=(0.0,) * len(model.labels),
        abstain_below=0.97,
        cells=100,
        saved=0.1,
        errors=(0.1, 0.05),
    )
    record = msgspec.structs.replace(calibrated.record, confidence=site)
    strict = dataclasses.replace(
        parts, profile=Profile(record, calibrated.flat_field, calibrated.calibration_id)
    )
    unsure = tuple(
        msgspec.structs.replace(cell, box=(200 + 9 * n, 150, 208 + 9 * n, 158))
        for n, cell in enumerate(good_result().cells)
    )
    view, found = np.zeros((100, 160), np.uint8), []
    for one in (parts, strict):
        counter = open_slide_counter(one, DifferentialSettings())
        assert counter is not None
        slide = Slide(counter)
        slide.runs.start_run()
        slide.runs.take_marks()
        one_frame = msgspec.structs.replace(good_result(), cells=unsure)
        found.append(take(slide, one_frame, view).differential)

    assert [d and d.unidentified for d in found] == [0, 4]


def test_where_no_cells_are_looked_for_nothing_is_counted(parts: Parts) -> None:
    whole = dataclasses.replace(parts, locator=None)

    assert open_slide_counter(whole, DifferentialSettings()) is None
    assert open_slide_counter(parts, DifferentialSettings(is_on=False)) is None


def test_a_place_is_told_in_micrometres(ground: Ground) -> None:
    slide = new_run()
    slide.runs.start_run()
    slide.runs.take_marks()
    take(slide, good_result(), ground.view(200, 100))

    there = take(slide, good_result(), ground.view(260, 70)).differential

    assert there is not None
    assert there.place_um is not None
    assert np.allclose(there.place_um, (60 * 0.28, -30 * 0.28), atol=0.2)
