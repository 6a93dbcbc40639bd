from __future__ import annotations

import pytest

from edge.taxonomy import ONTOLOGY, TASKS, label_in_task


@pytest.mark.parametrize(
    ("label", "task", "named"),
    [
        ("RBC", "cells4", "RBC"),
        ("neutrophil", "cells4", "WBC"),
        ("neutrophil", "wbc_subtype", "neutrophil"),
        ("RBC", "wbc_subtype", None),
        ("tank_treading", "cells4", None),
    ],
)
def test_a_kind_of_white_cell_is_a_white_cell(
    label: str, task: str, named: str | None
) -> None:
    assert label_in_task(label, task) == named


def test_every_class_has_its_place_in_the_ontology() -> None:
    classes = {name for names in TASKS.values() for name in names}

    assert classes == set(ONTOLOGY)
    cells = {n for task in ("cells4", "wbc_subtype") for n in TASKS[task]}
    assert {name for name in cells if ONTOLOGY[name] is None} == {"Plasma"}
