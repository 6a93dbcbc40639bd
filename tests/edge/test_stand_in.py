"""The runtime of TensorRT without a GPU: real pycuda on a stand-in for the driver.

The tests of `tests/tensorrt`, and the suite that every engine passes, run in a process
of their own, since a driver cannot be exchanged in one that runs.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.standin.environment import pycuda_library, python, standin_environment

SUITES = ["tests/tensorrt", "tests/edge/test_engines.py"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    library = pycuda_library()
    if library is None:
        pytest.skip("pycuda is not installed; ./install-pycuda.sh builds it")
    return standin_environment(tmp_path_factory.mktemp("driver"), library)


@pytest.mark.timeout(600)
def test_the_runtime_passes_its_tests_on_the_stand_in(
    environment: dict[str, str],
) -> None:
    done = python(
        environment, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *SUITES
    )

    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 60
    assert "no NVIDIA driver" not in done.stdout


def defective(environment: dict[str, str], folder: Path, was: str, now: str) -> str:
    """Return what the tests say of a runtime in which `was` became `now`."""
    runtime = Path("edge/engines/tensorrt.py").read_text(encoding="utf-8")
    assert runtime.count(was) == 1, was
    (folder / "broken.py").write_text(runtime.replace(was, now), encoding="utf-8")
    done = python(
        {**environment, "HEMASCOPE_BROKEN": str(folder / "broken.py")},
        *(
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/tensorrt/test_runtime.py",
        ),
    )
    assert done.returncode != 0, f"nobody noticed {was!r} -> {now!r}"
    return done.stdout
