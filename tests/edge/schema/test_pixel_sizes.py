"""A pixel size that no microscope has is refused wherever it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from calibration.commands.calibrate import calibrate_command
from edge.artifacts.profile import ProfileMismatch, load_profile
from edge.cli.classify import classify_command
from edge.errors import ConfigurationInvalid
from edge.schema.codec import read_toml
from edge.schema.pixel_sizes import why_not_sensible
from edge.settings.files import DeviceFile

SENSELESS = ("nan", "inf", "1e-9", "0", "-0.07", "25")


@pytest.mark.parametrize("um", SENSELESS)
def test_the_settings_refuse_it_with_the_range(um: str, tmp_path: Path) -> None:
    file = tmp_path / "device.toml"
    number = f"{um}.0" if um.lstrip("-").isdigit() else um
    file.write_text(
        'device = "scope-01"\n[source]\nkind = "folder"\npath = "images"\n'
        f'pixel_size_um = {number}\n[ledger]\nfolder = "l"\n'
    )

    with pytest.raises(ConfigurationInvalid, match=r"a number from 0\.01 to 2"):
        read_toml(file, DeviceFile)


@pytest.mark.parametrize("um", ["1e-9", "0", "-0.07", "25"])
def test_a_profile_with_it_is_refused_with_the_range(um: str, tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    file.write_text(f'{{"pixel_size_um": {um}}}')

    with pytest.raises(ProfileMismatch, match=r"expected 0\.01 to 2 µm .*calibrate"):
        load_profile(tmp_path)


@pytest.mark.parametrize("um", SENSELESS)
@pytest.mark.parametrize(
    ("command", "words"),
    [
        (classify_command, ["image.png"]),
        (calibrate_command, ["field", "--out", "profile"]),
    ],
)
def test_the_option_refuses_it_with_the_range(
    command: Any, words: list[str], um: str
) -> None:
    done = CliRunner().invoke(command, [*words, f"--pixel-size-um={um}"])

    assert done.exit_code == 2
    said = " ".join(done.output.replace("│", " ").split())
    assert "expected 0.01 to 2 µm" in said
    assert f"pixel size of {float(um):g} µm" in said


def test_the_sizes_of_real_microscopes_are_sensible() -> None:
    for um in (0.014, 0.0546, 0.07, 0.25, 0.65, 1.6):
        assert why_not_sensible(um) is None
