"""A whole site: field, slide, scale and confidence, and what the device makes of it."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result

from edge.artifacts.bundle import CLASSIFIER, ON_REFERENCE
from edge.artifacts.profile import ConfidenceRecord, Profile, load_profile, save_profile
from edge.cli.main import hemascope
from edge.ledger.reader import LedgerReader
from edge.pipeline.parts import read_parts
from edge.schema.entries import read_row
from edge.schema.results import Result as Row
from edge.settings.sources import SimulatedSettings
from edge.simulation.microscope import SimulatedMicroscope

SITE = SimulatedSettings(
    width_px=640,
    height_px=480,
    rate_hz=0,
    pixel_size_um=0.14,
    vignetting=0.3,
    hand_move_every_s=1.0,
)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(hemascope, [str(a) for a in arguments])


def done(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result.output


def photograph(folder: Path, frames: int, **changes: object) -> Path:
    bench = SimulatedMicroscope(msgspec.structs.replace(SITE, **changes))
    folder.mkdir()
    for n in range(frames):
        bgr = cv2.cvtColor(bench.render(40 * n), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / f"{n:02d}.png"), bgr)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with frames of empty and of crowded places, and a profile."""
    folder = tmp_path_factory.mktemp("site")
    empty = photograph(folder / "empty", 16, cells_per_mm2=0.0)
    photograph(folder / "cells", 24)
    done("calibrate", "field", "--images", empty, "--out", folder / "profile",
         "--pixel-size-um", 0.14)  # fmt: skip
    return folder


@pytest.fixture
def profile(site: Path, tmp_path: Path) -> Path:
    """A copy of the profile, to be changed."""
    old = load_profile(site / "profile")
    save_profile(tmp_path / "profile", old.record, old.flat_field)
    return tmp_path / "profile"


def test_a_field_with_cells_tells_nearly_what_an_empty_one_does(
    site: Path, tmp_path: Path
) -> None:
    out = tmp_path / "guessed"
    predicted = done("calibrate", "field", "--from-cells", "--images", site / "cells",
                "--out", out)  # fmt: skip

    guessed, true = load_profile(out), load_profile(site / "profile")
    assert guessed.flat_field is not None
    assert true.flat_field is not None
    assert true.record.white_point is not None
    ratio = guessed.flat_field / true.flat_field
    assert np.abs(ratio / ratio.mean() - 1).max() < 0.02
    np.testing.assert_allclose(
        guessed.record.white_point, true.record.white_point, rtol=0.02
    )
    assert not guessed.record.is_verified
    assert "unverified" in predicted
    assert "unverified" in (out / "report.md").read_text()


def test_frames_of_one_place_or_too_few_are_no_field(
    site: Path, tmp_path: Path
) -> None:
    still = tmp_path / "still"
    still.mkdir()
    frame = (site / "cells" / "00.png").read_bytes()
    for n in range(20):
        (still / f"{n}.png").write_bytes(frame)
    few = tmp_path / "few"
    few.mkdir()
    (few / "0.png").write_bytes(frame)

    one_place = run("calibrate", "field", "--from-cells", "--images", still,
                    "--out", tmp_path / "p")  # fmt: skip
    too_few = run("calibrate", "field", "--from-cells", "--images", few,
                  "--out", tmp_path / "p")  # fmt: skip

    assert "show one place" in str(one_place.exception)
    assert "1 frames with cells" in str(too_few.exception)


def test_a_slide_is_only_changed_when_accepted_and_can_be_gone_back_from(
    site: Path, profile: Path
) -> None:
    first = load_profile(profile).calibration_id
    command = ("calibrate", "slide", "--images", site / "cells", "--profile", profile)

    asked = CliRunner().invoke(hemascope, [str(c) for c in command], input="n\n")
    assert "nothing was changed" in asked.output
    assert load_profile(profile).calibration_id == first

    accepted = done(*command, "--accept")
    after = load_profile(profile)
    assert ON_REFERENCE.name in accepted
    assert read_parts(profile=profile).classifier.folder == ON_REFERENCE
    assert after.record.reference is not None
    assert after.record.reference.cells >= 200
    assert after.record.previous == first
    assert (profile / "slide" / "report.html").exists()

    shown = done("calibrate", "versions", profile)
    assert str(first)[:12] in shown
    done("calibrate", "versions", profile, "--restore", str(first)[:12])
    assert load_profile(profile).calibration_id == first
    assert read_parts(profile=profile).classifier.folder == CLASSIFIER
    unknown = run("calibrate", "versions", profile, "--restore", "0000")
    assert "0 calibrations begin with '0000'" in str(unknown.exception)


def test_a_slide_with_few_cells_or_without_white_point_is_refused(
    site: Path, profile: Path, tmp_path: Path
) -> None:
    few = run("calibrate", "slide", "--images", site / "empty", "--profile", profile)
    bare = tmp_path / "bare"
    save_profile(bare, msgspec.structs.replace(load_profile(profile).record,
                 white_point=None, flat_field_sha256=None))  # fmt: skip
    none = run("calibrate", "slide", "--images", site / "cells", "--profile", bare)

    assert "0 whole cells" in str(few.exception)
    assert "has no white point" in str(none.exception)


def test_the_scale_is_read_off_red_cells_with_an_honest_interval(
    site: Path, profile: Path
) -> None:
    predicted = done("calibrate", "scale", "--cells", site / "cells" / "00.png",
                site / "cells" / "01.png", "--profile", profile,
                "--page", profile / "scale")  # fmt: skip

    um = load_profile(profile).record.pixel_size_um
    assert um == pytest.approx(0.14, rel=0.06)
    assert "cells" in predicted
    assert (profile / "scale" / "report.html").exists()
    several = run("calibrate", "scale", site / "cells")
    assert "name one of the micrometer" in several.output


def reviewed(site: Path, out: Path, every_wrong: int = 10**6) -> Path:
    """Review the cells of three frames; one of so many is not what it looks like."""
    bench = SimulatedMicroscope(SITE)
    with out.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "x0", "y0", "x1", "y1"])
        for n in range(3):
            for place, cell in enumerate(bench.truth(40 * n, 1.0), start=1):
                path = site / "cells" / f"{n:02d}.png"
                label = cell.label if place % every_wrong else "Plasma"
                table.writerow([path, label, *cell.box])
    return out


def test_reviewed_cells_adapt_a_confidence_that_is_too_high(
    site: Path, profile: Path, tmp_path: Path
) -> None:
    table = reviewed(site, tmp_path / "reviewed.csv", every_wrong=4)
    first = load_profile(profile).calibration_id

    predicted = done("calibrate", "confidence", table, "--profile", profile,
                "--error-rate", 0.05)  # fmt: skip

    record = load_profile(profile).record
    assert "nats per cell" in predicted
    assert (profile / "confidence" / "report.html").exists()
    assert record.confidence is not None
    assert record.confidence.saved > 0
    assert record.confidence.errors[1] < record.confidence.errors[0]
    assert record.previous == first

    done("calibrate", "slide", "--images", site / "cells", "--profile", profile,
         "--accept")  # fmt: skip
    assert load_profile(profile).record.confidence is None


def test_a_confidence_that_is_right_is_left_alone(
    site: Path, profile: Path, tmp_path: Path
) -> None:
    table = reviewed(site, tmp_path / "reviewed.csv")
    first = load_profile(profile).calibration_id

    predicted = done("calibrate", "confidence", table, "--profile", profile)

    assert "nothing was changed" in predicted
    assert load_profile(profile).calibration_id == first


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path,label\na.png,RBC\n", "has no columns"),
        ("path,label,x0,y0,x1,y1\na.png,Cell,0,0,9,9\n", ":2: label 'Cell'"),
        ("path,label,x0,y0,x1,y1\na.png,RBC,9,0,9,9\n", "is empty"),
        ("path,label,x0,y0,x1,y1\na.png,RBC,x,0,9,9\n", ":2: "),
        ("path,label,x0,y0,x1,y1\nno.png,RBC,0,0,9,9\n", "0 reviewed cells"),
    ],
)
def test_a_review_that_says_nothing_is_refused(
    profile: Path, tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "r.csv").write_text(text)

    refused = run("calibrate", "confidence", tmp_path / "r.csv", "--profile", profile)

    assert says in str(refused.exception)


def test_another_lamp_is_said_in_every_result_and_changes_no_colour(
    profile: Path, tmp_path: Path
) -> None:
    def rows(name: str, lamp: tuple[float, float, float], rate_hz: float) -> list[Row]:
        config = tmp_path / f"{name}.toml"
        config.write_text(
            f'device = "{name}"\nprofile = "{profile}"\n[source]\nkind = "simulated"\n'
            f"width_px = 640\nheight_px = 480\nrate_hz = {rate_hz}\n"
            f"pixel_size_um = 0.14\nvignetting = 0.3\nlamp = {list(lamp)}\n"
            f'[ledger]\nfolder = "{tmp_path / name}"\n'
        )
        command = [sys.executable, "-m", "edge", "run", "--config", str(config)]
        subprocess.run([*command, "--frames", "60"], check=True, timeout=120)
        reader = LedgerReader(tmp_path / name)
        predicted = [read_row(row.data) for row in reader.rows(0, 100)]
        reader.close()
        return [row for row in predicted if isinstance(row, Row)]

    same = rows("same", SITE.lamp, 0)
    other = rows("other", (0.97, 0.85, 0.72), 6)  # what drifts needs seconds

    calibration = load_profile(profile).calibration_id
    assert {row.calibration_id for row in same + other} == {calibration}
    drifts = [row.drift for row in same if row.drift is not None]
    assert {drift.status for drift in drifts} == {"good"}
    assert max(drift.background or 0.0 for drift in drifts) < 1.0  # ΔE of white
    last = other[-1].drift
    assert last is not None
    assert (last.status, last.of) == ("red", "background")
    assert last.advice is not None
    assert "calibrate the field" in last.advice


def test_a_confidence_of_another_model_is_refused(
    profile: Path, tmp_path: Path
) -> None:
    old: Profile = load_profile(profile)
    site = ConfidenceRecord(
        model="0" * 64,
        classes=("RBC", "WBC", "Platelet", "Plasma"),
        scale=(1.0,) * 4,
        bias=(0.0,) * 4,
        abstain_below=None,
        cells=50,
        saved=0.1,
        errors=(0.1, 0.05),
    )
    save_profile(
        profile, msgspec.structs.replace(old.record, confidence=site), old.flat_field
    )

    page = profile.parent / "x.png"
    cv2.imwrite(str(page), np.zeros((64, 64, 3), np.uint8))
    refused = run("classify", page, "--profile", profile, "--json")

    assert "was measured with model 000000000000" in str(refused.exception)
