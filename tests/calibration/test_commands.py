from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from calibration.commands.calibrate import calibrate_command
from calibration.field import PLASMA_DENSITY
from edge.artifacts.profile import load_profile
from edge.frames import RawFrame
from edge.simulation.microscope import SimulatedMicroscope
from edge.stages.colour_correction import correct, prepare
from tests.calibration.test_field import EMPTY
from tests.calibration.test_scale import micrometer
from tests.conftest import shot


def run(*arguments: object) -> Result:
    return CliRunner().invoke(calibrate_command, [str(a) for a in arguments])


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of sixteen empty places, as a camera's own program would save them."""
    bench, folder = SimulatedMicroscope(EMPTY), tmp_path / "empty"
    folder.mkdir()
    for n in range(16):
        bgr = cv2.cvtColor(bench.render(30 * n), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / f"{n:02d}.png"), bgr)
    return folder


def test_an_empty_field_comes_out_as_one_even_grey(
    images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "profile"
    done = run("field", "--images", images, "--out", out, "--pixel-size-um", 0.14)

    assert done.exit_code == 0, done.output
    profile = load_profile(out)
    assert profile.record.pixel_size_um == 0.14
    raw = RawFrame(shot(), SimulatedMicroscope(EMPTY).render(777))
    after = correct(raw.pixels, prepare(profile, 960, 600, raw.pixels.dtype))
    smooth = cv2.blur(after, (31, 31))[16:-16, 16:-16]
    grey = 255 * 10**-PLASMA_DENSITY
    assert np.abs(smooth.reshape(-1, 3).mean(0) - grey).max() < 2.0
    assert np.ptp(smooth.astype(float), axis=(0, 1)).max() < 0.05 * grey  # the plasma's
    page = (out / "report.html").read_text()
    for shown in ("white point", "flat field", "data:image/png"):
        assert shown in page.lower()


def test_a_camera_is_calibrated_through_the_settings_of_its_device(
    tmp_path: Path,
) -> None:
    config = tmp_path / "device.toml"
    config.write_text(
        'device = "bench"\n[source]\nkind = "simulated"\ncells_per_mm2 = 0\n'
        "width_px = 640\nheight_px = 480\nrate_hz = 0\n"
        '[ledger]\nfolder = "ledger"\n'
    )
    done = run(
        "field", "--config", config, "--out", tmp_path / "p", "--objective", "100x"
    )

    assert done.exit_code == 0, done.output
    record = load_profile(tmp_path / "p").record
    assert (record.width_px, record.height_px) == (640, 480)
    assert record.camera_serial == "simulated:0"
    assert record.objective == "100x"


def test_a_source_must_be_named_once(images: Path, tmp_path: Path) -> None:
    neither = run("field", "--out", tmp_path / "p")
    both = run("field", "--out", tmp_path / "p", "--images", images, "--config", images)

    assert "--config or --images" in neither.output
    assert "--config or --images" in both.output


def test_nothing_is_written_of_a_field_with_cells(tmp_path: Path) -> None:
    config = tmp_path / "device.toml"
    config.write_text(
        'device = "bench"\n[source]\nkind = "simulated"\nrate_hz = 0\n'
        "width_px = 640\nheight_px = 480\n"
        '[ledger]\nfolder = "ledger"\n'
    )
    done = run("field", "--config", config, "--out", tmp_path / "p")

    assert "not smooth" in str(done.exception)
    assert not (tmp_path / "p").exists()


def test_a_scale_is_written_into_the_profile_of_its_objective(
    images: Path, tmp_path: Path
) -> None:
    out, ruler = tmp_path / "profile", tmp_path / "ruler.png"
    assert run("field", "--images", images, "--out", out).exit_code == 0
    before = load_profile(out)
    cv2.imwrite(str(ruler), micrometer(50.0, 7.0))
    half = tmp_path / "half.png"
    cv2.imwrite(str(half), micrometer(25.0, 7.0, size=(300, 480)))

    done = run("scale", ruler, "--division-um", 10, "--profile", out)
    other = run("scale", half, "--division-um", 10, "--profile", out)

    assert done.exit_code == 0, done.output
    assert "µm per pixel" in done.output
    after = load_profile(out)
    assert after.record.pixel_size_um == pytest.approx(0.2, rel=2e-3)
    assert after.calibration_id != before.calibration_id
    assert after.record.white_point == before.record.white_point
    assert "480x300" in str(other.exception)
    again = run("field", "--images", images, "--out", out)
    assert "kept: objective None, pixel size 0.1999" in again.output
    assert load_profile(out).record.pixel_size_um == after.record.pixel_size_um


def test_frames_that_the_camera_skips_are_waited_for(tmp_path: Path) -> None:
    config = tmp_path / "device.toml"
    config.write_text(
        'device = "bench"\n[source]\nkind = "simulated"\ncells_per_mm2 = 0\n'
        "width_px = 320\nheight_px = 240\nrate_hz = 0\ndrop_share = 0.4\n"
        '[ledger]\nfolder = "ledger"\n'
    )
    done = run("field", "--config", config, "--out", tmp_path / "p")

    assert done.exit_code == 0, done.output
