from __future__ import annotations

from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.artifacts.bundle import CellClass
from edge.engines import Outputs
from edge.pipeline.classifiers import Classifier, classify_cells
from edge.pipeline.parts import Parts
from edge.pipeline.pipeline import Pipeline
from edge.pipeline.stopwatch import Stopwatch
from edge.simulation.microscope import SimulatedMicroscope
from edge.stages.detection import Regions
from tests.conftest import exposure_of

KINDS = ("neutrophil", "lymphocyte")


@dataclass
class FixedEngine:
    """Says of each crop what stands in `logits`, and notes how many it saw."""

    logits: NDArray[np.float32]
    seen: list[int] = field(default_factory=list)

    def infer(self, batch: NDArray[np.uint8], state: object = None) -> Outputs:
        self.seen.append(len(batch))
        return Outputs({"logits": self.logits[: len(batch)]})

    def close(self) -> None:
        pass


def classifier(parts: Parts, names: tuple[str, ...], logits: object) -> Classifier:
    """A classifier of these classes; `refines` is None."""
    classes = tuple(CellClass(name=name, ontology=None) for name in names)
    record = msgspec.structs.replace(parts.classifier.record, classes=classes)
    engine = FixedEngine(np.array(logits, np.float32).reshape(-1, len(names)))
    return Classifier(replace(parts.classifier, record=record), engine, 0.5)  # type: ignore[arg-type]


def regions(count: int) -> Regions:
    corners = 50.0 * np.arange(count)[:, None]
    boxes = np.hstack([corners, corners, corners + 40, corners + 40])
    return Regions(
        boxes.astype(np.float32),
        np.ones(count, np.float32),
        np.zeros(count, np.intp),
        np.zeros((count, 0), np.float32),
    )


def black(places: NDArray[np.int32], size_px: int) -> NDArray[np.uint8]:
    return np.zeros((len(places), size_px, size_px, 3), np.uint8)


def test_a_later_classifier_sees_the_cells_of_its_class_alone(parts: Parts) -> None:
    # red, white, unsure, white: rows 1 and 3 are white for certain
    first = classifier(parts, ("RBC", "WBC"), [[9, 0], [0, 9], [0, 0.1], [0, 9]])
    first = replace(first, abstain_below=0.6)
    finer = classifier(parts, KINDS, [[9, 0], [0, 9]])
    finer = replace(finer, refines="WBC")

    found = classify_cells(regions(4), [first, finer], None, black, Stopwatch())

    assert found.decisions.classes.tolist() == [0, 1, 1, 1]
    assert found.decisions.abstained.tolist() == [False, False, True, False]
    (refinement,) = found.refinements
    assert finer.engine.seen == [2]  # type: ignore[attr-defined]
    assert refinement.rows.tolist() == [1, 3]
    assert [refinement.labels[k] for k in refinement.decisions.classes] == list(KINDS)


def test_where_a_class_does_not_occur_nothing_is_refined(parts: Parts) -> None:
    first = classifier(parts, ("RBC", "WBC"), [[9, 0], [9, 0]])
    finer = replace(classifier(parts, KINDS, [[9, 0]] * 2), refines="WBC")

    found = classify_cells(regions(2), [first, finer], None, black, Stopwatch())

    (refinement,) = found.refinements
    assert len(refinement.rows) == len(refinement.decisions.classes) == 0


def test_a_refinement_changes_nothing_of_the_row(
    parts: Parts, microscope: SimulatedMicroscope
) -> None:
    exposure = exposure_of(microscope.render(0))
    pipeline = parts.open_pipeline()
    finer = replace(classifier(parts, KINDS, np.zeros((99, 2))), refines="WBC")
    both: Pipeline = replace(pipeline, classifiers=(*pipeline.classifiers, finer))

    alone, refined = pipeline.examine(exposure).result, both.examine(exposure).result
    pipeline.close()

    assert finer.engine.seen == [alone.counts["WBC"]]  # type: ignore[attr-defined]
    assert refined.cells == alone.cells
    assert refined.counts == alone.counts


def test_a_stage_that_runs_twice_adds_up() -> None:
    stage = Stopwatch()
    for _ in range(2):
        with stage("crop"):
            sum(range(20_000))
    with stage("infer"):
        pass

    assert list(stage.spent_ms) == ["crop", "infer"]
    assert stage.spent_ms["crop"] > stage.spent_ms["infer"] >= 0
