"""The runtime of TensorRT without a GPU: real pycuda on a stand-in for the driver.

The tests of `tests/tensorrt`, and the suite that every engine passes, run in a process
of their own, since a driver cannot be exchanged in one that runs.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.standin.environment import pycuda_library, python, standin_environment

ROOT = Path(__file__).parents[3]
SUITES = [
    "tests/tensorrt",
    "tests/edge/engines/test_engines.py",
    "tests/edge/timelapse/test_recurrent_state.py",
]


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


@pytest.mark.parametrize("integrated", [True, False])
def test_memory_is_mapped_where_the_gpu_is_integrated(
    environment: dict[str, str], integrated: bool
) -> None:
    script = (
        "from tests.engines import recurrent_engine\n"
        "engine = recurrent_engine()\n"
        "print('mapped', engine.is_mapped)\n"
        "engine.close()\n"
    )
    kind = {"STANDIN_INTEGRATED": "1"} if integrated else {}

    done = python({**environment, **kind}, "-c", script)

    assert done.stdout == f"mapped {integrated}\n", done.stderr


RUNTIME, BUILDING = "tests/tensorrt/test_runtime.py", "tests/tensorrt/test_building.py"
_CRASHES = (-6, -11)  # aborted by pycuda, or read what was freed
# Module, what stands there, the defect, and the tests that must notice.
DEFECTS = {
    "missing pop": (
        "edge.engines.cuda",
        "        self.cuda.Context.pop()\n",
        "        self.cuda.Context\n",
        [RUNTIME, "-k", "no_context_stays"],
    ),
    "context kept": (
        "edge.engines.tensorrt",
        "        self._gpu.close()\n",
        "        self._gpu\n",
        [RUNTIME, "-k", "left_behind"],
    ),
    "graph kept": (
        "edge.engines.tensorrt_program",
        "            self._graph.close()\n",
        "            self._graph\n",
        [RUNTIME, "-k", "left_behind"],
    ),
    "wrong slot": (
        "edge.engines.tensorrt_slots",
        "NEXT_STATE: states[1 - number]",
        "NEXT_STATE: states[number]",
        [RUNTIME, "-k", "slot_to_slot"],
    ),
    "read too early": (
        "edge.engines.tensorrt",
        "        slot.done.synchronize()\n",
        "        slot.done\n",
        [RUNTIME, "-k", "any_size"],
    ),
    "wrong type": (
        "edge.engines.tensorrt_slots",
        "types = {trt.DataType.UINT8: np.uint8,",
        "types = {trt.DataType.HALF: np.float32, trt.DataType.UINT8: np.uint8,",
        [RUNTIME, "-k", "half_precision"],
    ),
    "stale manifest": (
        "edge.engines.build_manifest",
        '        *_differences("built on", manifest.site, machine),\n',
        "",
        [BUILDING, "-k", "TensorRT and explained"],
    ),
    "altered plan": (
        "edge.engines.build_manifest",
        "    if found != manifest.plan_sha256:\n",
        "    if found is None:\n",
        [BUILDING, "-k", "altered and explained"],
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_noticed(
    environment: dict[str, str], tmp_path: Path, defect: str
) -> None:
    module, was, now, tests = DEFECTS[defect]
    copy = copy_of_the_project(tmp_path)
    file = copy / f"{module.replace('.', '/')}.py"
    text = file.read_text(encoding="utf-8")
    assert text.count(was) == 1, was
    file.write_text(text.replace(was, now), encoding="utf-8")

    options = ("-q", "-x", "-p", "no:cacheprovider")
    bad = python(environment, "-m", "pytest", *options, *tests, root=copy)

    noticed = bad.returncode == 1 and re.search(r"1 (failed|error)", bad.stdout)
    assert noticed or bad.returncode in _CRASHES, bad.stdout + bad.stderr


def copy_of_the_project(folder: Path) -> Path:
    """Return a root whose `edge` may be changed; models and the rest are links."""
    for name in ("edge", "tests"):
        shutil.copytree(
            ROOT / name,
            folder / name,
            ignore=shutil.ignore_patterns("bundles", "__pycache__"),
        )
    for name in ("calibration", "export", "training", "pyproject.toml", "edge/bundles"):
        (folder / name).symlink_to(ROOT / name)
    return folder
