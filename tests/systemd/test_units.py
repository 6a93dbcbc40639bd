from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = sorted((Path(__file__).parents[2] / "systemd").glob("*.service"))


def test_there_is_a_unit_for_each_process() -> None:
    assert [unit.stem for unit in UNITS] == [
        "hemascope-archive",
        "hemascope-publish",
        "hemascope-run",
    ]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_is_valid(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    program = tmp_path / "hemascope"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copy = tmp_path / unit.name
    copy.write_text(
        unit.read_text().replace("/opt/hemascope/bin/hemascope", str(program))
    )

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "Unknown" not in done.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_wrong_setting_is_not_tried_again_and_all_else_is(unit: Path) -> None:
    text = unit.read_text()

    assert "RestartPreventExitStatus=78" in text
    assert "Restart=on-failure" in text
    assert "StartLimitIntervalSec=0" in text  # a camera may be away all night
    assert "--config /etc/hemascope/" in text
