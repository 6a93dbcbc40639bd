"""What is said when an import fails, and the command that is named."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edge.doctor.checks.versions import judge_opencv
from edge.import_faults import (
    debian_package,
    import_fault,
    install_command,
    library_fault,
)

ROOT = Path(__file__).parents[2]
NO_FILE = "cannot open shared object file: No such file or directory"


def classify_with(cv2: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `classify` on a file with this text in the place of OpenCV."""
    (folder / "cv2").mkdir()
    (folder / "cv2" / "__init__.py").write_text(cv2)
    (folder / "x.png").write_text("no image")
    return subprocess.run(
        [sys.executable, "-m", "edge", "classify", "x.png"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        timeout=60,
    )


def test_a_library_that_opencv_needs_is_named_with_its_package(tmp_path: Path) -> None:
    done = classify_with(f"raise ImportError('libGL.so.1: {NO_FILE}')", tmp_path)

    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "hemascope: libGL.so.1 is missing: apt-get install libgl1"
    ]


def test_half_an_opencv_is_said_to_be_reinstalled(tmp_path: Path) -> None:
    done = classify_with("", tmp_path)

    assert done.returncode == 1
    assert "reinstall opencv-python" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_package_that_does_not_fit_is_said_to_be_reinstalled(tmp_path: Path) -> None:
    text = "/x/cv2.abi3.so: undefined symbol: PyObject_New"
    done = classify_with(f"raise ImportError({text!r})", tmp_path)

    (line,) = done.stderr.splitlines()
    assert "undefined symbol" in line
    assert "reinstall opencv-python" in line


@pytest.mark.parametrize(
    ("library", "package"),
    [
        ("libGL.so.1", "libgl1"),
        ("libX11.so.6", "libx11-6"),
        ("libxcb-shape.so.0", "libxcb-shape0"),
        ("libgthread-2.0.so.0", "libglib2.0-0"),
        ("libstdc++.so.6", "libstdc++6"),
        ("libgirepository-1.0.so.1", "libgirepository-1.0-1"),
        ("libz.so.1", "zlib1g"),
    ],
)
def test_the_package_of_a_library_is_as_debian_calls_it(
    library: str, package: str
) -> None:
    assert debian_package(library) == package


@pytest.mark.parametrize("library", ["libcuda.so.1", "libnvinfer.so.10", "libcudart"])
def test_a_library_of_nvidia_is_not_sought_in_debian(library: str) -> None:
    fault = library_fault(ImportError(f"{library.partition('.so')[0]}.so.1: {NO_FILE}"))

    assert fault is not None
    assert "docs/jetson.md" in fault.remedy


def test_a_missing_package_is_named_with_what_installs_it() -> None:
    fault = import_fault(ModuleNotFoundError("No module", name="torch"))

    assert fault is not None
    assert "torch, which is not installed" in fault.found
    assert fault.remedy == "run `pip install '.[workstation]'` in the project's folder"
    assert "[timelapse]" in install_command("useq-schema")
    assert install_command("opencv-python").startswith("pip install ")
    assert "workstation" not in install_command("opencv-python")


def test_a_fault_of_our_own_is_not_explained_away() -> None:
    assert import_fault(ModuleNotFoundError("x", name="edge.nothing")) is None
    assert import_fault(AttributeError("x", name="y", obj=object())) is None
    assert import_fault(AttributeError("x", name="nothing", obj=pytest)) is None
    assert import_fault(ValueError("x")) is None


def test_doctor_says_which_opencv_is_there() -> None:
    two = {"opencv-python": "4.11", "opencv-python-headless": "4.12"}
    (both,) = judge_opencv(two)
    (other,) = judge_opencv({"opencv-python-headless": "4.12"})

    assert both.status == "warning"
    assert re.search("overwrite each other", both.found)
    assert other.status == "ok"
    assert "takes the place of opencv-python" in other.found
    assert not [*judge_opencv({"opencv-python": "4.11"})]
