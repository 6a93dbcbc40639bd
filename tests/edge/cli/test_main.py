from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import pytest

from edge.ledger.reader import LedgerReader
from edge.ledger.writer import Ledger
from edge.pipeline.images.image_lines import ImageLine
from edge.schema.entries import Entry, RunMark, read_row
from edge.schema.results import Result
from edge.simulation.microscope import SimulatedMicroscope

ROOT = Path(__file__).parents[3]


def hemascope(
    *arguments: str | Path, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    command: Sequence[str | Path] = [sys.executable, "-m", "edge", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd or ROOT,
        timeout=120,
    )


@pytest.fixture(scope="module")
def images(
    tmp_path_factory: pytest.TempPathFactory, microscope: SimulatedMicroscope
) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(2):
        bgr = cv2.cvtColor(microscope.render(60 * number), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / f"{number}.png"), bgr)
    return folder


def test_every_command_has_its_help() -> None:
    commands = ("run", "publish", "archive", "watch", "demo", "classify")
    listed = hemascope("--help").stdout
    for command in commands:
        assert command in listed
        assert hemascope(command, "--help").returncode == 0


def test_classify_prints_one_json_line_per_image(images: Path) -> None:
    done = hemascope("classify", images, "--json", "--pixel-size-um", "0.07")

    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(line["path"]).name for line in lines] == ["0.png", "1.png"]
    for line in lines:
        assert set(line) == set(ImageLine.__struct_fields__)
        assert line["status"] == "ok"
        assert line["pixel_size_um"] == 0.07
        assert line["pixel_size_origin"] == "source"
        assert line["cells_found"] == len(line["cells"])
        assert (line["width"], line["height"]) == (640, 480)
        assert len(line["cells"]) > 5
        for cell in line["cells"]:
            assert set(cell) == {
                "box",
                "label",
                "confidence",
                "probabilities",
                "abstained",
            }
            assert set(cell["probabilities"]) == {"RBC", "WBC", "Platelet", "Plasma"}


def test_classify_crops_takes_each_file_as_one_cell(images: Path) -> None:
    done = hemascope("classify", images, "--json", "--crops")

    for line in map(json.loads, done.stdout.splitlines()):
        assert [cell["box"] for cell in line["cells"]] == [[0, 0, 640, 480]]


def test_classify_without_json_shows_a_table_and_draws_pictures(
    images: Path, tmp_path: Path
) -> None:
    done = hemascope("classify", images, "--pictures", tmp_path / "pictures")

    assert done.returncode == 0, done.stderr
    assert "0.png" in done.stdout
    assert "RBC" in done.stdout
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert len(pictures) == 2
    assert cv2.imread(str(pictures[0])) is not None


def test_every_way_out_says_what_speaks_against_a_result(
    images: Path, tmp_path: Path
) -> None:
    field = cv2.imread(str(images / "0.png"))
    cv2.imwrite(str(tmp_path / "dark.png"), field // 16)
    cv2.imwrite(str(tmp_path / "dim.png"), field // 2)
    arguments = [tmp_path, "--pixel-size-um", "0.07", "--pictures", tmp_path / "drawn"]

    done = hemascope("classify", *arguments, "--json", "--csv", tmp_path / "cells.csv")
    table = hemascope("classify", *arguments)

    assert done.returncode == table.returncode == 0, done.stderr
    dark, dim = map(json.loads, done.stdout.splitlines())
    assert (dark["status"], dark["fault"], dark["cells"]) == ("rejected", "dark", [])
    assert dim["status"] == "degraded"
    assert len(dim["cells"]) > 5
    written = (tmp_path / "cells.csv").read_text("utf-8")
    rows = list(csv.DictReader(written.splitlines()))
    assert [row["status"] for row in rows] == ["rejected"] + ["degraded"] * (
        len(rows) - 1
    )
    assert len(rows) == 1 + len(dim["cells"])
    assert {row["reason"] for row in rows} == {dark["reason"], dim["reason"]}
    assert {row["model"] for row in rows} == {dim["model"]}
    for status in ("rejected", "degraded", "dim: brightness"):
        assert status in " ".join(table.stdout.split())
    assert dim["model"] in table.stdout.replace("\n", "")
    assert len(list((tmp_path / "drawn").iterdir())) == 2


def test_large_images_and_other_files_are_named(images: Path, tmp_path: Path) -> None:
    shutil.copy(images / "0.png", tmp_path)
    (tmp_path / "notes.txt").write_text("no image")

    done = hemascope("classify", tmp_path, "--json", "--max-megapixels", "0.2")

    assert "1 files are passed over, no images to us: 1 .txt" in done.stderr
    error = json.loads(done.stdout)["error"]
    assert "640x480 px are 0.307 megapixels, expected at most 0.2" in error


def test_a_picture_that_cannot_be_written_costs_nothing_else(
    images: Path, tmp_path: Path
) -> None:
    pictures = tmp_path / "drawn"
    (pictures / "0000-0.jpg").mkdir(parents=True)

    done = hemascope(
        "classify", images, "--json", "--pictures", pictures, "--pixel-size-um", "0.07"
    )

    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 2
    assert (pictures / "0001-1.jpg").is_file()
    assert "1 pictures could not be written, the first: " in one_line(done)


def test_ctrl_c_shows_what_was_examined_until_then(
    images: Path, tmp_path: Path
) -> None:
    for number in range(200):
        shutil.copy(images / "0.png", tmp_path / f"{number:03}.png")
    command = [sys.executable, "-m", "edge", "classify", str(tmp_path)]
    command += ["--pixel-size-um", "0.07", "--pictures", str(tmp_path / "drawn")]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        while len(list((tmp_path / "drawn").glob("*"))) < 3:
            assert running.poll() is None
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        shown, _ = running.communicate(timeout=60)

    assert running.returncode != 0
    assert "000.png" in shown
    assert "002.png" in shown
    assert "199.png" not in shown


def test_pictures_that_classify_drew_are_not_taken_for_fields(
    images: Path, tmp_path: Path
) -> None:
    shutil.copy(images / "0.png", tmp_path)
    for _ in range(2):
        done = hemascope("classify", tmp_path, "--pictures", tmp_path / "annotated")
        assert done.returncode == 0, done.stderr

    assert len(list((tmp_path / "annotated").iterdir())) == 1


def test_a_command_whose_packages_are_missing_says_which_to_install(
    tmp_path: Path,
) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(name='torch')")

    done = subprocess.run(
        [sys.executable, "-m", "edge", "train", "inception", "--out", tmp_path / "run"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )

    assert done.returncode == 1
    assert "needs torch" in one_line(done)
    assert "pip install '.[workstation]'` in the project's folder" in one_line(done)


def test_a_damaged_image_among_good_ones_is_said_and_the_others_are_examined(
    images: Path, tmp_path: Path
) -> None:
    for path in images.iterdir():
        shutil.copy(path, tmp_path)
    (tmp_path / "0a.png").write_bytes((images / "0.png").read_bytes()[:5000])
    (tmp_path / "0b.png").write_bytes(b"no image")

    done = hemascope("classify", tmp_path, "--json")

    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode != 0
    assert ["error" in line for line in lines] == [False, True, True, False]
    assert "copy it again" in lines[1]["error"]
    assert "2 of 4 images" in done.stderr


def device_file(folder: Path, **changes: str) -> Path:
    (folder / "images").mkdir(exist_ok=True)
    settings = {
        "source": '[source]\nkind = "folder"\npath = "images"\npixel_size_um = 0.07',
        "extra": "",
    } | changes
    file = folder / "device.toml"
    file.write_text(
        f'device = "scope-01"\n{settings["extra"]}\n{settings["source"]}\n'
        '[ledger]\nfolder = "ledger"\n'
    )
    return file


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The error, which is a sentence and no traceback."""
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_run_examines_a_folder_into_the_ledger(images: Path, tmp_path: Path) -> None:
    file = device_file(tmp_path)
    for path in images.iterdir():
        shutil.copy(path, tmp_path / "images")

    done = hemascope("run", "--config", file, "--slide", "S26-1", "--operator", "op7")

    assert done.returncode == 0, done.stderr
    reader = LedgerReader(tmp_path / "ledger")
    rows = [read_row(row.data) for row in reader.rows(0, 10)]
    reader.close()
    marks = [row.entry for row in rows if isinstance(row, Entry)]
    frames = [row for row in rows if isinstance(row, Result)]
    assert [m.phase for m in marks if isinstance(m, RunMark)] == ["start", "end"]
    assert [row.status for row in frames] == ["ok", "ok"]
    assert isinstance(marks[0], RunMark)
    assert (marks[0].slide, marks[0].operator) == ("S26-1", "op7")
    assert {row.run for row in frames} == {marks[0].run}
    assert frames[1].differential is not None


def test_check_says_that_settings_are_good_and_starts_nothing(tmp_path: Path) -> None:
    done = hemascope("run", "--check", "--config", device_file(tmp_path))

    assert done.returncode == 0
    assert "good" in done.stdout
    assert not (tmp_path / "ledger").exists()


BAD: list[tuple[dict[str, str], int, str]] = [
    (
        {"source": '[source]\nkind = "opencv"\ndevice = "/dev/video99"'},
        1,
        "no such camera",
    ),
    ({}, 1, "holds no image"),
    ({"extra": "colour = 3"}, 78, "device.toml:2"),
    ({"extra": '[model]\nbundle = "nowhere"'}, 78, "nowhere"),
    ({"extra": 'profile = "nowhere"'}, 78, "profile.json"),
]


@pytest.mark.parametrize(("changes", "code", "says"), BAD)
def test_what_is_wrong_is_one_line_and_an_exit_code(
    tmp_path: Path, changes: dict[str, str], code: int, says: str
) -> None:
    done = hemascope("run", "--config", device_file(tmp_path, **changes))

    assert done.returncode == code
    assert says in one_line(done)


def test_two_processes_on_one_ledger_are_refused(images: Path, tmp_path: Path) -> None:
    file = device_file(tmp_path)
    shutil.copy(images / "0.png", tmp_path / "images")
    ledger = Ledger(tmp_path / "ledger", "scope-01")

    done = hemascope("run", "--config", file)
    ledger.close()

    assert done.returncode == 1
    assert "writes this ledger" in one_line(done)


def test_publish_without_a_ledger_says_what_to_start(tmp_path: Path) -> None:
    done = hemascope("publish", "--config", device_file(tmp_path))

    assert done.returncode == 1
    assert "hemascope run" in one_line(done)


def test_a_path_that_does_not_exist_is_said() -> None:
    done = hemascope("classify", "/nowhere/at/all.png")

    assert done.returncode == 78
    assert "does not exist" in one_line(done)


def test_a_patients_name_is_refused_as_a_slide(tmp_path: Path) -> None:
    config = tmp_path / "device.toml"
    text = (ROOT / "examples" / "device.toml").read_text(encoding="utf-8")
    config.write_text(text, encoding="utf-8")

    done = hemascope("run", "--config", config, "--check", "--slide", "Maria Garcia")

    assert done.returncode == 78
    assert "never a patient's name" in done.stderr
    assert "Traceback" not in done.stderr
