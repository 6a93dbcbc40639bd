"""ONNX Runtime reports to nobody, and nothing is written that nobody asked for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from edge.simulation.microscope import SimulatedMicroscope

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("package", ["edge", "calibration", "training", "export"])
def test_reports_are_off_before_any_module_of_a_package_is_imported(
    package: str,
) -> None:
    code = f"import {package}, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"

    done = quietly([sys.executable, "-c", code], os.environ)

    assert done.stdout == "1\n"


def test_a_command_writes_nothing_into_the_home_folder(
    tmp_path: Path, microscope: SimulatedMicroscope
) -> None:
    environment = bare_environment(tmp_path)
    image = tmp_path / "field.png"
    cv2.imwrite(str(image), microscope.render(0)[..., ::-1])

    done = quietly(
        [sys.executable, "-m", "edge", "classify", str(image), "--json"], environment
    )

    assert done.returncode == 0, done.stderr
    assert not [*(tmp_path / "home").iterdir()]


def test_no_name_is_looked_up_while_pictures_are_examined(
    tmp_path: Path, microscope: SimulatedMicroscope
) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    image = tmp_path / "field.png"
    cv2.imwrite(str(image), microscope.render(0)[..., ::-1])
    command = [sys.executable, "-m", "edge", "classify", str(image), "--json"]
    trace = [strace, "-f", "-qq", "-e", "trace=connect,sendto,sendmmsg,openat,mkdir"]
    out = tmp_path / "trace"

    done = quietly([*trace, "-o", str(out), *command], bare_environment(tmp_path))

    if "ptrace" in done.stderr:
        pytest.skip("processes may not be traced here")
    assert done.returncode == 0, done.stderr
    calls = out.read_text()
    assert "openat" in calls  # it was traced
    assert not re.findall(r".*(?:connect|sendto|sendmmsg)\(.*", calls)
    assert not re.findall(r".*O_CREAT.*", calls)


def bare_environment(folder: Path) -> dict[str, str]:
    (folder / "home").mkdir()
    keep = {k: os.environ[k] for k in ("PATH", "PYTHONPATH") if k in os.environ}
    return {
        **keep,
        "HOME": str(folder / "home"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }


def quietly(
    command: list[str], environment: os._Environ[str] | dict[str, str]
) -> subprocess.CompletedProcess[str]:
    wanted = {k: v for k, v in environment.items() if k != "ORT_DISABLE_TELEMETRY"}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=wanted,
        timeout=120,
    )
