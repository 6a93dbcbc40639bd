from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from textwrap import dedent

import cv2
import numpy as np
import pytest

from edge.taxonomy import TASKS
from training.choices import SPLITS
from training.data.data_report import examine_rows
from training.data.layouts.manifest import read_manifest
from training.data.readers import NOT_STATED, label_named, read_rows
from training.data.rows import DataInvalid, cut_task_crops, free_rows, rows_of_task


def write_image(path: Path, width: int = 40, height: int = 20) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))
    return path


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text))
    return path


def refusal(source: Path, task: str = "cells4", **options: str) -> str:
    with pytest.raises(DataInvalid) as refused:
        read_rows(source, task=task, **options)  # type: ignore[arg-type]
    return str(refused.value)


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


def test_a_row_knows_its_line_and_the_length_of_its_strip(tmp_path: Path) -> None:
    path = write_text(
        tmp_path / "m.csv",
        """\
        path,licence,split,label,x0,y0,x1,y1,n_frames
        a.png,MIT,train,RBC,0,0,9,9,
        b.png,MIT,val,flipping,,,,,20
        """,
    )

    one, strip = read_rows(path, task="timelapse")

    assert (one.where, one.frames, one.index) == ("m.csv:2", 1, None)
    assert (strip.where, strip.frames, strip.task) == ("m.csv:3", 20, "timelapse")
    assert read_manifest(path)[0].task == "cells4"


def test_a_manifest_states_licence_and_group_itself(tmp_path: Path) -> None:
    path = write_text(tmp_path / "m.csv", "path,licence,split,label,x0,y0,x1,y1\n")

    assert "states licence and group itself" in refusal(path, licence="MIT")
    assert "states licence and group itself" in refusal(path, group="(a)")


def test_what_is_no_data_set_is_refused_with_what_would_be(tmp_path: Path) -> None:
    write_text(tmp_path / "notes" / "a.txt", "")

    for source in (tmp_path / "notes", tmp_path / "absent"):
        assert "expected a manifest (.csv), BloodMNIST (.npz)" in refusal(source)
    assert "absent.csv" in refusal(tmp_path / "absent.csv")
    assert "expected one of ['cells4'" in refusal(tmp_path, task="cells5")


@pytest.mark.parametrize(
    ("name", "task", "label"),
    [
        ("Platelets", "cells4", "Platelet"),
        ("platelet", "pbc8", "Platelet"),
        ("red blood cell", "cells4", "RBC"),
        ("Red_Blood_Cells", "cells4", "RBC"),
        ("Erythrocytes", "cells4", "RBC"),
        ("NEUTROPHIL", "cells4", "WBC"),
        ("Neutrophils", "wbc_subtype", "neutrophil"),
        ("ig", "pbc8", "immature granulocyte"),
        ("Immature-Granulocytes", "pbc8", "immature granulocyte"),
        ("TankTreading", "timelapse", "tank_treading"),
        ("lysis", "change", "lysis"),
        ("erythrocyte", "pbc8", None),
        ("blast", "cells4", None),
        ("", "cells4", None),
        ("s", "cells4", None),
    ],
)
def test_a_name_is_read_as_the_label_it_means(
    name: str, task: str, label: str | None
) -> None:
    assert label_named(name, task) == label


def test_class_folders_are_read_and_split_by_image(tmp_path: Path) -> None:
    for folder in ("Platelets", "rbc"):
        for number in range(10):
            write_image(tmp_path / "lab" / folder / f"p{number % 5}_{number}.png")
    write_text(tmp_path / "lab" / "README.txt", "")
    write_text(tmp_path / "lab" / "rbc" / "Thumbs.db", "")
    write_text(tmp_path / "lab" / "rbc" / ".hidden", "")

    rows = read_rows(tmp_path / "lab", task="cells4")

    assert Counter(row.label for row in rows) == {"Platelet": 10, "RBC": 10}
    assert {row.split for row in rows if row.label == "RBC"} == set(SPLITS)
    first = rows[0]
    assert first.where == first.group == "Platelets/p0_0.png"
    assert (first.box, first.domain, first.index) == (None, "lab", None)
    assert {row.licence for row in rows} == {NOT_STATED}
    assert free_rows(rows) == []
    assert free_rows(read_rows(tmp_path / "lab", task="cells4", licence="MIT"))


def test_the_group_is_found_in_the_file_name(tmp_path: Path) -> None:
    for number in range(12):
        write_image(tmp_path / "RBC" / f"patient{number % 4}_{number}.png")

    rows = read_rows(tmp_path, task="cells4", group=r"^(\w+?)_")

    assert {row.group for row in rows} == {f"patient{n}" for n in range(4)}
    assert len({(row.group, row.split) for row in rows}) == 4
    assert "patient0_0.png: group '(slide.)' finds nothing" in refusal(
        tmp_path, group="(slide.)"
    )
    assert "with a capture group" in refusal(tmp_path, group="patient.")
    assert "with a capture group" in refusal(tmp_path, group="(patient")


def test_folders_around_class_folders_are_their_splits(tmp_path: Path) -> None:
    for split in ("train", "Valid", "test"):
        for label in ("RBC", "WBC"):
            write_image(tmp_path / split / label / "a.png")

    rows = read_rows(tmp_path, task="cells4")

    assert {(row.path.parts[-3], row.split) for row in rows} == {
        ("train", "train"),
        ("Valid", "val"),
        ("test", "test"),
    }
    write_image(tmp_path / "more" / "RBC" / "a.png")
    assert "more: expected a folder of a split" in refusal(tmp_path)


def test_nothing_in_class_folders_is_overlooked(tmp_path: Path) -> None:
    write_image(tmp_path / "RBC" / "a.png")
    loose = write_image(tmp_path / "b.png")
    assert f"{loose}: image beside folders" in refusal(tmp_path)
    loose.unlink()

    other = write_text(tmp_path / "RBC" / "a.gif", "")
    assert f"{other}: lies among images and is none" in refusal(tmp_path)
    other.unlink()

    (tmp_path / "WBC").mkdir()
    assert f"{tmp_path / 'WBC'}: folder of a class without an image" in refusal(
        tmp_path
    )


def test_unknown_labels_are_listed_with_their_place_and_the_known_ones(
    tmp_path: Path,
) -> None:
    for label in ("RBC", "blast", "smudge"):
        write_image(tmp_path / label / "a.png")

    says = refusal(tmp_path)

    assert "'blast' (blast/a.png), 'smudge' (smudge/a.png) (2 labels)" in says
    assert "it knows RBC, WBC, Platelet, Plasma" in says


OBJECT = """
<object><name>{name}</name><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>
<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"""


def write_voc(folder: Path, stem: str, *cells: tuple[str, tuple[object, ...]]) -> Path:
    write_image(folder / "JPEGImages" / f"{stem}.png")
    objects = "".join(OBJECT.format(name=name, box=box) for name, box in cells)
    text = f"<annotation><filename>{stem}.png</filename>{objects}</annotation>"
    return write_text(folder / "Annotations" / f"{stem}.xml", text)


def test_voc_boxes_are_read_with_their_splits(tmp_path: Path) -> None:
    for stem, split in (("a", "train"), ("b", "val"), ("c", "test")):
        write_voc(tmp_path, stem, ("RBC", (1, 2, 9, 12)), ("Platelets", (0, 0, 4, 5)))
        write_text(tmp_path / "ImageSets" / "Main" / f"{split}.txt", f"{stem}\n")

    rows = read_rows(tmp_path, task="cells4")

    assert [row.split for row in rows] == ["train"] * 2 + ["val"] * 2 + ["test"] * 2
    assert [row.label for row in rows[:2]] == ["RBC", "Platelet"]
    assert rows[0].box == (1, 2, 9, 12)
    assert rows[1].where == "Annotations/a.xml, object 2"
    assert rows[1].group == "JPEGImages/a.png"
    assert len(cut_task_crops(rows_of_task(rows, "cells4"), 32, 1.2).rows) == 6


def test_voc_without_lists_is_split_by_image(tmp_path: Path) -> None:
    for number in range(9):
        cells = ("RBC", (1, 2, 9, 12)), ("WBC", (0, 0, 4, 5))
        write_voc(tmp_path, f"f{number}", *cells)

    rows = read_rows(tmp_path, task="cells4")

    assert {row.split for row in rows} == set(SPLITS)
    assert len({(row.path, row.split) for row in rows}) == 9


def test_what_voc_lists_and_holds_must_agree(tmp_path: Path) -> None:
    write_voc(tmp_path, "a", ("RBC", (1, 2, 9, 12)))
    write_voc(tmp_path, "b", ("RBC", (1, 2, 9, 12)))
    lists = tmp_path / "ImageSets" / "Main"

    write_text(lists / "train.txt", "a\n")
    assert "b.xml: is in no list" in refusal(tmp_path)
    write_text(lists / "val.txt", "a b\n")
    assert "val.txt: a is in the list of train too" in refusal(tmp_path)
    write_text(lists / "val.txt", "b c\n")
    assert "val.txt: c has no file Annotations/c.xml" in refusal(tmp_path)
    write_text(lists / "val.txt", "b\n")
    write_image(tmp_path / "JPEGImages" / "d.png")
    assert "d.png: no file of Annotations names it" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><a>&x;</a>',
            "declares a document type 'a'; remove its DOCTYPE",
        ),
        ("<annotation>", "not XML"),
        ('<?xml version="1.0" encoding="klingon"?><a/>', "not XML"),
        ("<annotation/>", "filename is ''"),
        ("<a><filename>../b.png</filename></a>", "filename is '../b.png'"),
    ],
)
def test_a_voc_file_that_is_none_is_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "JPEGImages").mkdir()
    file = write_text(tmp_path / "Annotations" / "a.xml", text)

    refused = refusal(tmp_path)

    assert str(file) in refused
    assert says in refused


def test_a_document_type_is_refused_in_any_encoding(tmp_path: Path) -> None:
    file = write_text(tmp_path / "Annotations" / "a.xml", "")
    text = '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a><a/>'
    file.write_bytes(text.encode("utf-16"))

    assert "remove its DOCTYPE" in refusal(tmp_path)


def test_a_voc_box_or_label_that_is_none_is_named(tmp_path: Path) -> None:
    fine = ("RBC", (1, 2, 9, 12))
    write_voc(tmp_path, "a", fine, ("RBC", (1, "x", 9, 12)))
    assert "Annotations/a.xml, object 2: box" in refusal(tmp_path)
    write_voc(tmp_path, "a", fine, ("blast", (1, 2, 9, 12)))
    assert "'blast' (Annotations/a.xml, object 2)" in refusal(tmp_path)
    write_voc(tmp_path, "a")
    assert "no cell is labelled in it" in refusal(tmp_path)


def test_an_empty_box_is_read_and_left_to_the_examination(tmp_path: Path) -> None:
    write_voc(tmp_path, "a", ("RBC", (1, 2, 9, 12)), ("RBC", (5, 5, 5, 9)))

    examined = examine_rows(read_rows(tmp_path, task="cells4"))

    assert len(examined.usable) == 1
    (problem,) = examined.problems
    assert problem.startswith("Annotations/a.xml, object 2: a.png: box")


def write_yolo(folder: Path, split: str, *, inside: bool) -> None:
    """One field per split, the split's folder inside or around that of the images."""
    images, labels = (
        (f"{kind}/{split}" if inside else f"{split}/{kind}")
        for kind in ("images", "labels")
    )
    write_image(folder / images / f"{split}.png", width=40, height=20)
    write_text(folder / labels / f"{split}.txt", "1 0.5 0.5 0.5 0.5\n\n0 0 0 .1 .1\n")


@pytest.mark.parametrize("inside", [True, False])
def test_yolo_boxes_are_read_with_their_splits(tmp_path: Path, inside: bool) -> None:
    for split in ("train", "valid", "test"):
        write_yolo(tmp_path, split, inside=inside)
    write_text(tmp_path / "data.yaml", "nc: 2\nnames: ['RBC', 'WBC']\n")

    rows = read_rows(tmp_path, task="cells4")

    assert Counter((row.path.stem, row.split) for row in rows) == {
        ("train", "train"): 2,
        ("valid", "val"): 2,
        ("test", "test"): 2,
    }
    row = next(r for r in rows if r.path.stem == "train")
    assert (row.label, row.box) == ("WBC", (10, 5, 30, 15))
    folder = "labels/train" if inside else "train/labels"
    assert row.where == f"{folder}/train.txt:1"
    assert {r.where.partition(":")[2] for r in rows} == {"1", "3"}


def test_yolo_without_splits_is_split_by_image(tmp_path: Path) -> None:
    write_text(tmp_path / "classes.txt", "RBC\nWBC\n")
    for number in range(9):
        write_image(tmp_path / "images" / f"{number}.png")
        write_text(tmp_path / "labels" / f"{number}.txt", "0 .5 .5 .2 .2\n")
    write_image(tmp_path / "images" / "empty.png")
    write_text(tmp_path / "labels" / "empty.txt", "")

    rows = read_rows(tmp_path, task="cells4")

    assert len(rows) == 9
    assert {row.split for row in rows} == set(SPLITS)


@pytest.mark.parametrize(
    "text",
    [
        "names: [RBC, 'white blood cell']\n",
        'names: ["RBC",\n  "WBC"]\nnc: 2\n',
        "path: .\nnames:\n- RBC\n- WBC\nnc: 2\n",
        "names:\n  - RBC  # red\n  - WBC\n",
        "# names: [x]\nnames:\n  0: 'RBC'\n  1: WBC\n\ntrain: images/train\n",
        "names:\n  1: WBC\n  0: RBC\n",
        "names: {0: RBC, 1: WBC}\n",
    ],
)
def test_the_class_names_of_data_yaml_are_read(tmp_path: Path, text: str) -> None:
    write_yolo(tmp_path, "train", inside=True)
    write_text(tmp_path / "data.yaml", text)

    assert [row.label for row in read_rows(tmp_path, task="cells4")] == ["WBC", "RBC"]


def test_class_names_that_are_missing_or_unknown_are_told(tmp_path: Path) -> None:
    write_yolo(tmp_path, "train", inside=True)
    assert "has no data.yaml or classes.txt" in refusal(tmp_path)
    write_text(tmp_path / "data.yaml", "nc: 2\n")
    assert "data.yaml: has no `names:`" in refusal(tmp_path)
    write_text(tmp_path / "data.yaml", "names: [RBC, blast]\n")
    assert "'blast' (labels/train/train.txt:1)" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("0 .5 .5 .2", "has 4 numbers, expected 5"),
        ("0 .1 .1 .2 .1 .2 .2", "has 7 numbers, expected 5"),
        ("2 .5 .5 .2 .2", "class is '2', expected one of [0, 1]"),
        ("-1 .5 .5 .2 .2", "class is '-1'"),
        ("RBC .5 .5 .2 .2", "class is 'RBC'"),
        ("0 .5 .5 .2 wide", "is not four numbers"),
    ],
)
def test_a_yolo_line_that_is_none_is_named(
    tmp_path: Path, line: str, says: str
) -> None:
    write_text(tmp_path / "classes.txt", "RBC\nWBC\n")
    write_image(tmp_path / "images" / "a.png")
    file = write_text(tmp_path / "labels" / "a.txt", f"0 .5 .5 .2 .2\n{line}\n")

    refused = refusal(tmp_path)

    assert refused.startswith(f"{file}:2: ")
    assert says in refused


def test_yolo_images_and_labels_must_belong_together(tmp_path: Path) -> None:
    write_text(tmp_path / "classes.txt", "RBC\n")
    image = write_image(tmp_path / "images" / "a.png")
    assert f"{image}: has no label file" in refusal(tmp_path)

    file = write_text(tmp_path / "labels" / "a.txt", "0 .5 .5 .2 .2\n")
    image.write_bytes(image.read_bytes()[:-20])
    assert f"{file}: its image: {image}: the PNG is damaged" in refusal(tmp_path)

    image.unlink()
    assert f"{file}: has no image" in refusal(tmp_path)


def stacks(number: int = 4) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split in SPLITS:
        arrays[f"{split}_images"] = random.integers(
            0, 255, (number, 28, 28, 3), dtype=np.uint8
        )
        arrays[f"{split}_labels"] = np.arange(number, dtype=np.uint8)[:, None]
    return arrays


def test_bloodmnist_is_read_in_the_order_of_its_classes(tmp_path: Path) -> None:
    arrays = stacks(8)
    np.savez_compressed(tmp_path / "blood.npz", **arrays)

    rows = read_rows(tmp_path / "blood.npz", task="pbc8", licence="CC-BY-4.0")

    assert len(rows) == 24
    assert [row.label for row in rows[:8]] == [*TASKS["pbc8"]]
    one = rows[8 + 5]
    assert (one.split, one.index, one.domain) == ("val", 5, "blood")
    assert one.where == one.group == "blood.npz:val[5]"
    crops = cut_task_crops(rows_of_task(rows, "pbc8"), 28, 1.0)
    place = crops.rows.index(one)
    np.testing.assert_array_equal(crops.pixels[place], arrays["val_images"][5])


def test_bloodmnist_serves_a_task_that_knows_its_cells(tmp_path: Path) -> None:
    np.savez(tmp_path / "blood.npz", **stacks(2))  # basophils and eosinophils

    rows = read_rows(tmp_path / "blood.npz", task="cells4")

    assert {row.label for row in rows} == {"WBC"}
    np.savez(tmp_path / "more.npz", **stacks(4))
    assert "'erythroblast' (more.npz:train[2])" in refusal(tmp_path / "more.npz")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"val_images": None}, "has no array 'val_images'; expected the arrays of"),
        ({"test_labels": None}, "has no array 'test_labels'"),
        (
            {"val_images": np.zeros((4, 28, 28), np.uint8)},
            "(4, 28, 28) uint8, expected",
        ),
        ({"val_images": np.zeros((4, 9, 9, 3))}, "float64, expected"),
        ({"val_labels": np.zeros((3, 1), np.uint8)}, "4 val_images and 3 val_labels"),
        ({"val_labels": np.zeros((4, 1))}, "of float64, expected one integer"),
        ({"val_labels": np.full((4, 1), 8)}, "val[0]: class is 8, expected 0 to 7"),
    ],
)
def test_an_npz_that_is_no_bloodmnist_is_refused(
    tmp_path: Path, changed: dict[str, np.ndarray | None], says: str
) -> None:
    arrays = {k: v for k, v in (stacks() | changed).items() if v is not None}
    np.savez(tmp_path / "a.npz", **arrays)

    refused = refusal(tmp_path / "a.npz", task="pbc8")

    assert "a.npz" in refused
    assert says in refused


def test_a_damaged_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **stacks())
    whole = path.read_bytes()

    path.write_bytes(whole[:-100])
    assert re.search(r"a\.npz: .*cannot be read", refusal(path, task="pbc8"))
    path.write_bytes(whole[:200] + b"\xff" * 100 + whole[300:])
    assert re.search(r"a\.npz: .*cannot be read", refusal(path, task="pbc8"))


def test_a_stack_has_no_names_to_find_groups_in(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **stacks())

    assert "no file names" in refusal(tmp_path / "a.npz", task="pbc8", group="(.)")
