from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.data.contact_sheet import contact_sheet
from training.data.data_report import examine_rows, refuse_problems, write_data_report
from training.data.layouts.manifest import read_manifest
from training.data.rows import DataInvalid, Row, cut_task_crops, rows_of_task

RANDOM = np.random.default_rng(0)


def coloured(width: int = 40, height: int = 40) -> np.ndarray:
    return RANDOM.integers(0, 255, (height, width, 3), dtype=np.uint8)


def row_of(folder: Path, name: str, pixels: np.ndarray | None = None) -> Row:
    """A labelled image, as line 2 of a manifest has it."""
    path = folder / name
    assert cv2.imwrite(str(path), coloured() if pixels is None else pixels)
    return Row(
        path, "MIT", "train", "RBC", None, "cells4", "lab", name, True, "m.csv:2"
    )


def test_sound_rows_have_no_problem(manifest: Path) -> None:
    rows = read_manifest(manifest)

    examined = examine_rows(rows)

    assert examined.problems == ()
    assert examined.usable == examined.rows == tuple(rows)
    refuse_problems(examined.problems)


def test_each_problem_names_file_and_row_and_spares_the_others(tmp_path: Path) -> None:
    good = row_of(tmp_path, "good.png")
    torn = replace(row_of(tmp_path, "torn.png"), where="m.csv:3")
    torn.path.write_bytes(torn.path.read_bytes()[:-20])
    missing = replace(good, path=tmp_path / "gone.png", where="m.csv:4")
    outside = replace(good, box=(0, 0, 43, 9), where="m.csv:5")
    edge = replace(good, box=(0, 0, 41, 9), where="m.csv:6")
    empty = replace(good, box=(5, 5, 5, 9), where="m.csv:7")
    again = replace(edge, where="m.csv:8")

    examined = examine_rows([good, torn, missing, outside, edge, empty, again])

    assert examined.usable == (good, edge)
    for problem, (where, name, says) in zip(
        examined.problems,
        [
            ("m.csv:3", "torn.png", "damaged or cut short"),
            ("m.csv:4", "gone.png", "No such file"),
            ("m.csv:5", "good.png", "reaches 3 px outside"),
            ("m.csv:7", "good.png", "is empty"),
            ("m.csv:8", "good.png", "is labelled RBC in m.csv:6 already"),
        ],
        strict=True,
    ):
        assert problem.startswith(f"{where}: ")
        assert name in problem
        assert says in problem


def test_where_two_labels_contradict_each_other_neither_is_used(tmp_path: Path) -> None:
    red = replace(row_of(tmp_path, "a.png"), box=(1, 1, 9, 9))
    white = replace(red, label="WBC", where="m.csv:3")
    kind = replace(red, label="neutrophil", task="wbc_subtype", where="m.csv:4")

    examined = examine_rows([red, white, kind])

    assert examined.usable == (kind,)
    assert "m.csv:2: a.png: box (1, 1, 9, 9) is labelled WBC in m.csv:3 too" in (
        examined.problems
    )


def test_problems_are_refused_with_the_first_twenty_and_their_number() -> None:
    with pytest.raises(DataInvalid) as refused:
        refuse_problems([f"m.csv:{number}: torn" for number in range(2, 33)])

    assert "31 rows" in str(refused.value)
    assert "m.csv:21: torn" in str(refused.value)
    assert "m.csv:22: torn" not in str(refused.value)


def test_notes_tell_of_depth_grey_and_mixed_sizes(tmp_path: Path) -> None:
    deep = coloured().astype(np.uint16) * 257
    rows = [
        row_of(tmp_path, "plain.png"),
        row_of(tmp_path, "deep.png", deep),
        row_of(tmp_path, "grey.png", coloured()[..., 0]),
        row_of(tmp_path, "small.png", coloured(30, 20)),
        replace(row_of(tmp_path, "other.png", coloured(64, 64)), domain="tidy"),
    ]

    examined = examine_rows(rows)

    assert examined.usable == tuple(rows)
    about = [note for note in examined.notes if note.startswith(("lab", "tidy"))]
    assert about == [
        "lab: 1 of 4 images are 16-bit, scaled to 8 by the profile",
        "lab: 1 of 4 images are grey, their colour says nothing",
        "lab: 2 image sizes, 30x20 to 40x40 px",
    ]


def test_strips_of_different_length_are_images_of_one_size(tmp_path: Path) -> None:
    rows = [
        replace(row_of(tmp_path, f"{n}.png", coloured(31 * n, 31)), frames=n)
        for n in (2, 5)
    ]

    assert not any("image sizes" in note for note in examine_rows(rows).notes)


def test_notes_tell_of_classes_that_are_empty_missing_or_unknown(
    tmp_path: Path,
) -> None:
    row = row_of(tmp_path, "a.png")
    boxes: list[tuple[float, float, float, float]] = [
        (0, 0, n + 5, n + 5) for n in range(6)
    ]
    rows = [
        replace(row, split=split, label=label, box=box)
        for box, (split, label) in zip(
            boxes,
            [
                ("train", "RBC"),
                ("val", "RBC"),
                ("test", "RBC"),
                ("train", "WBC"),
                ("test", "WBC"),
                ("train", "blast"),
            ],
            strict=True,
        )
    ]

    assert examine_rows(rows).notes == (
        "cells4: no WBC in val",
        "cells4: no row is labelled Platelet, an empty class",
        "cells4: no row is labelled Plasma, an empty class",
        "cells4: 'blast' (m.csv:2) is no class of this task",
    )


def test_the_report_counts_what_is_there(manifest: Path, tmp_path: Path) -> None:
    rows = read_manifest(manifest)
    broken = replace(rows[0], box=(0, 0, 999, 9), where="manifest.csv:999")
    examined = examine_rows([*rows, broken])
    crops = cut_task_crops(rows_of_task(examined.usable, "cells4")[:30], 32, 1.2)

    path = write_data_report(tmp_path / "report", examined, crops)

    text = path.read_text()
    number = {
        split: sum(
            r.label == "RBC" and r.domain == "wright" and r.split == split for r in rows
        )
        for split in ("train", "val", "test")
    }
    assert (
        f"{len(rows)} of {len(rows) + 1} rows can be used, 18 images, 4 groups" in text
    )
    wright = text.partition("## wright, cells4")[2]
    counts = " | ".join(map(str, number.values()))
    assert f"| RBC | {counts} | 4 |" in wright
    assert f"| MIT | {sum(r.licence == 'MIT' for r in rows)} |" in text
    assert "- manifest.csv:999: field-0.png: box" in text
    sheet = cv2.imread(str(tmp_path / "report" / "contact-sheet.png"))
    np.testing.assert_array_equal(sheet[..., ::-1], contact_sheet(crops))


def test_the_contact_sheet_names_each_class_and_shows_every_domain(
    tmp_path: Path,
) -> None:
    def cells(domain: str, label: str, value: int, number: int) -> list[Row]:
        grey = np.full((32, 32, 3), value, np.uint8)
        row = row_of(tmp_path, f"{domain}-{label}.png", grey)
        whole = replace(row, domain=domain, label=label)
        return [replace(whole, box=(0, 0, 32, 32), where=f"{n}") for n in range(number)]

    rows = [
        *((row, 0) for row in cells("big", "RBC", 10, 30)),
        *((row, 0) for row in cells("little", "RBC", 200, 2)),
        *((row, 1) for row in cells("big", "WBC", 90, 3)),
    ]

    sheet = contact_sheet(cut_task_crops(rows, 32, 1.0), columns=6)

    left = sheet.shape[1] - 6 * 64
    assert sheet.shape[0] == 2 * 64
    centres = sheet[32::64, left + 32 :: 64, 0].tolist()
    assert centres == [[10, 10, 10, 10, 200, 200], [90, 90, 90, 255, 255, 255]]
    for line in (0, 1):
        name = sheet[64 * line : 64 * line + 64, :left]
        assert (name < 100).any()
        assert (name[[0, -1]] == 255).all()
        assert (name[:, [0, -1]] == 255).all()


def test_no_crop_is_no_contact_sheet(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match="no crop to show"):
        contact_sheet(cut_task_crops([], 32, 1.0))
