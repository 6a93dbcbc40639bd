from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge.correction import correct, prepare
from edge.crops import cut_crops, windows
from edge.images import read_image
from edge.profile import IDENTITY_PROFILE
from edge.taxonomy import TASKS
from training.data import (
    DataInvalid,
    Row,
    contact_sheet,
    cut_task_crops,
    digest,
    free_rows,
    join,
    read_fields,
    read_manifest,
    rows_of_task,
)

CLASSES = ("RBC", "WBC", "Platelet")
ROW = Row(Path("a.png"), "MIT", "train", "RBC", (0, 0, 9, 9), "cells4", "x", "g", True)


def test_a_manifest_is_read_row_by_row(manifest: Path) -> None:
    rows = read_manifest(manifest)

    assert {row.split for row in rows} == {"train", "val", "test"}
    assert {row.domain for row in rows} == {"wright", "giemsa"}
    assert all(row.path.exists() for row in rows)
    assert {row.path.name for row in rows if not row.is_complete} == {"field-0.png"}


@pytest.mark.parametrize(
    ("head", "line", "says"),
    [
        ("path,label", "a.png,RBC", "has no column"),
        (None, "a.png,MIT,later,RBC,0,0,1,1", ":2: split is 'later'"),
        (None, "a.png,MIT,train,RBC,0,0,x,1", ":2: box"),
        (None, "a.png,MIT,train,RBC,5,0,5,1", "is empty"),
        (None, "a.png,MIT,train,RBC,0,0,nan,1", "not finite"),
        (None, "a.png,MIT,train,RBC,0,0", ":2: has fewer columns"),
        (None, "\udcff.png,MIT,train,RBC,0,0,1,1", "UTF-8"),
    ],
)
def test_a_wrong_manifest_is_refused_with_the_line(
    tmp_path: Path, head: str | None, line: str, says: str
) -> None:
    path = tmp_path / "m.csv"
    text = f"{head or 'path,licence,split,label,x0,y0,x1,y1'}\n{line}\n"
    path.write_bytes(text.encode(errors="surrogateescape"))

    with pytest.raises(DataInvalid, match=says):
        read_manifest(path)


@pytest.mark.parametrize(
    ("licence", "is_free"),
    [
        ("MIT", True),
        ("MIT (repackaged)", True),
        ("BSD-3-Clause", True),
        ("GPL-3.0", False),
        ("none stated", False),
        ("", False),
        ("CC-BY-NC", False),
    ],
)
def test_only_free_rows_may_be_trained_on(licence: str, is_free: bool) -> None:
    assert bool(free_rows([replace(ROW, licence=licence)])) == is_free


def test_a_cell_labelled_twice_is_used_once() -> None:
    kind = replace(ROW, label="neutrophil", task="wbc_subtype")
    white = replace(ROW, label="WBC")
    whole = replace(kind, box=None)
    alone = replace(kind, box=None, path=Path("b.png"))
    foreign = replace(ROW, task="timelapse", label="Platelet", path=Path("c.png"))

    used = rows_of_task([kind, white, whole, alone, foreign], "cells4")

    assert used == [(white, 1), (alone, 1)]


def test_crops_are_cut_as_the_device_cuts_them(manifest: Path) -> None:
    rows = rows_of_task(read_manifest(manifest), "cells4")[:20]

    crops = cut_task_crops(rows, 48, 1.3)

    for pixels, row in zip(crops.pixels, crops.rows, strict=True):
        counts = read_image(row.path)
        colours = prepare(
            IDENTITY_PROFILE, counts.shape[1], counts.shape[0], counts.dtype
        )
        place = windows(np.array([row.box], np.float32), 1.3)
        expected = cut_crops(correct(counts, colours), place, 48)[0]
        np.testing.assert_array_equal(pixels, expected)
    assert crops.classes.tolist() == [
        TASKS["cells4"].index(row.label) for row in crops.rows
    ]


def test_an_image_of_one_cell_is_its_own_window(manifest: Path) -> None:
    row = replace(read_manifest(manifest)[0], box=None)

    crops = cut_task_crops([(row, 0)], 64, 2.0)

    whole = windows(np.array([[0, 0, 420, 320]], np.float32), 1.0)
    expected = cut_crops(read_image(row.path), whole, 64)
    np.testing.assert_array_equal(crops.pixels, expected)


def test_fields_know_the_size_of_their_red_cells(manifest: Path) -> None:
    fields = read_fields(read_manifest(manifest), CLASSES)

    assert len(fields) == 18
    for field in fields:
        assert field.diameter_px == pytest.approx(7.5 / 0.14, rel=0.12)
        assert (field.boxes[:, 2] <= 420).all()
        assert len(field.boxes) == len(field.classes)


def test_the_digest_changes_with_any_label() -> None:
    assert digest([ROW]) == digest([ROW])
    assert digest([ROW]) != digest([replace(ROW, label="WBC")])
    assert digest([ROW]) != digest([replace(ROW, box=(0, 0, 9, 8))])


def test_sets_of_crops_are_put_together_and_shown(manifest: Path) -> None:
    rows = rows_of_task(read_manifest(manifest), "cells4")
    first, second = (
        cut_task_crops(rows[:6], 32, 1.2),
        cut_task_crops(rows[6:9], 32, 1.2),
    )

    both = join(first, second)

    assert len(both.rows) == len(both.pixels) == len(both.classes) == 9
    sheet = contact_sheet(both, columns=4)
    assert sheet.shape == (16 * len(np.unique(both.classes)), 64, 3)
