from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from edge.artifacts.profile import IDENTITY, IDENTITY_PROFILE, Profile, ProfileRecord
from edge.sources.image_files import read_image
from edge.stages.colour_correction import correct, prepare
from edge.stages.crops import cut_crops, windows
from edge.taxonomy import TASKS
from training.data.boxes import box_problem
from training.data.layouts.manifest import read_manifest
from training.data.rows import (
    DataInvalid,
    Row,
    cut_task_crops,
    developed,
    digest,
    free_rows,
    join,
    read_counts,
    read_fields,
    rows_of_task,
)

CLASSES = ("RBC", "WBC", "Platelet")
ROW = Row(Path("a.png"), "MIT", "train", "RBC", (0, 0, 9, 9), "cells4", "x", "g", True)


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


def test_images_of_one_stack_are_told_apart() -> None:
    stack = replace(ROW, box=None, index=0)

    used = rows_of_task(
        [stack, replace(stack, index=1), replace(stack, split="val"), stack], "cells4"
    )

    assert [(row.split, row.index) for row, _ in used] == [
        ("train", 0),
        ("train", 1),
        ("val", 0),
    ]


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
    assert digest([replace(ROW, index=1)]) != digest([replace(ROW, index=2)])


def test_sets_of_crops_are_put_together(manifest: Path) -> None:
    rows = rows_of_task(read_manifest(manifest), "cells4")
    first, second = (
        cut_task_crops(rows[:6], 32, 1.2),
        cut_task_crops(rows[6:9], 32, 1.2),
    )

    both = join(first, second)

    assert len(both.rows) == len(both.pixels) == len(both.classes) == 9
    np.testing.assert_array_equal(both.pixels[6:], second.pixels)


def write_image(path: Path, pixels: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), pixels)
    return path


def test_crops_of_a_stack_are_its_images(tmp_path: Path) -> None:
    path = tmp_path / "cells.npz"
    train, val = np.random.default_rng(0).integers(
        0, 255, (2, 3, 28, 28, 3), dtype=np.uint8
    )
    np.savez(path, train_images=train, val_images=val)
    row = Row(path, "", "val", "RBC", None, "cells4", "x", "g", True, "", 2)

    crops = cut_task_crops([(row, 0), (replace(row, split="train"), 0)], 28, 1.0)

    np.testing.assert_array_equal(crops.pixels, [train[2], val[2]])
    assert [row.split for row in crops.rows] == ["train", "val"]


def test_a_profile_corrects_the_crops_of_its_own_domain_only(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", np.full((40, 40, 3), 100, np.uint8))
    own = replace(ROW, path=path, box=None, domain="own")
    other = replace(own, domain="other")
    profile = Profile(ProfileRecord(white_point=(200.0,) * 3), None, "id")

    crops, plain = (
        cut_task_crops([(row, 0)], 32, 1.0, {"own": profile}) for row in (own, other)
    )

    assert profile.record.matrix == IDENTITY
    np.testing.assert_allclose(crops.pixels, 100 / 200 * 255, atol=1)
    assert (plain.pixels == 100).all()


def test_an_image_that_its_profile_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", np.full((40, 40, 3), 100, np.uint8))
    row = replace(ROW, path=path, where="m.csv:5")
    profile = Profile(ProfileRecord(width_px=640, height_px=480), None, "id")

    with pytest.raises(DataInvalid, match=r"m\.csv:5: frame is 40x40 px"):
        cut_task_crops([(row, 0)], 32, 1.0, {"x": profile})


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (np.full((31, 17, 3), 257 * 90, np.uint16), 90),
        (np.full((31, 17), 257 * 90, np.uint16), 90),
        (np.full((50, 33), 90, np.uint8), 90),
        (np.full((1, 1, 3), 90, np.uint8), 90),
    ],
)
def test_an_image_of_any_depth_colour_and_size_is_cut(
    tmp_path: Path, counts: np.ndarray, expected: int
) -> None:
    path = write_image(tmp_path / "a.png", counts)

    crops = cut_task_crops([(replace(ROW, path=path, box=None), 0)], 24, 1.0)

    assert crops.pixels.shape == (1, 24, 24, 3)
    np.testing.assert_allclose(crops.pixels, expected, atol=1)


def test_a_damaged_image_is_named_with_its_row(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", np.zeros((40, 40, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:-20])
    row = replace(ROW, path=path, where="m.csv:5")

    with pytest.raises(DataInvalid, match=r"m\.csv:5: .*a\.png: .*copy it again"):
        cut_task_crops([(row, 0)], 32, 1.0)
    with pytest.raises(DataInvalid, match=r"m\.csv:6: .*b\.png: No such file"):
        developed(replace(row, path=tmp_path / "b.png", where="m.csv:6"))


def test_a_box_outside_its_image_is_refused_and_one_at_its_edge_is_clipped(
    tmp_path: Path,
) -> None:
    path = write_image(
        tmp_path / "a.png",
        np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8),
    )
    row = replace(ROW, path=path, where="m.csv:5", box=(0, 0, 40, 40))

    whole = cut_task_crops([(row, 0)], 32, 1.0)
    edge = cut_task_crops([(replace(row, box=(-1, -1, 41, 41)), 0)], 32, 1.0)

    np.testing.assert_array_equal(edge.pixels, whole.pixels)
    outside = replace(row, box=(0, 0, 41.5, 40))
    for refuse in (
        lambda: cut_task_crops([(outside, 0)], 32, 1.0),
        lambda: read_fields([outside], CLASSES),
    ):
        with pytest.raises(
            DataInvalid, match=r"m\.csv:5: a\.png: .*reaches 1\.5 px outside"
        ):
            refuse()


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ((-1.0, 0.0, 21.0, 10.0), None),
        ((-1.5, 0.0, 5.0, 5.0), "reaches 1.5 px"),
        ((0.0, 0.0, 5.0, 12.0), "reaches 2 px"),
        ((0.0, 0.0, float("inf"), 5.0), "reaches inf px"),
        ((3.0, 0.0, 3.0, 5.0), "is empty"),
        ((5.0, 0.0, 3.0, 5.0), "is empty"),
        ((-0.9, 0.0, -0.1, 5.0), "is empty"),
        ((float("nan"), 0.0, 3.0, 5.0), "not finite"),
        ((0.0, float("nan"), 3.0, float("nan")), "not finite"),
    ],
)
def test_a_box_is_judged_by_its_image(
    box: tuple[float, float, float, float], says: str | None
) -> None:
    problem = box_problem(box, 20, 10)

    assert problem is None if says is None else says in str(problem)


def test_a_row_whose_picture_exif_turns_is_named(tmp_path: Path) -> None:
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(np.full((20, 30, 3), 200, np.uint8)).save(path, exif=exif)
    row = replace(ROW, path=path, where="manifest.csv:3")

    with pytest.raises(DataInvalid, match=r"manifest\.csv:3: .*EXIF orientation 6"):
        developed(row)
    assert read_counts(replace(row, box=None)).shape == (30, 20, 3)
