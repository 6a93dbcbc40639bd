"""Building engines where there is a driver, and why one is not loaded."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from edge.artifacts.bundle import (
    CLASSIFIER,
    LOCATOR,
    Bundle,
    BundleRefused,
    load_bundle,
)
from edge.engines.build_manifest import EnginePath, EngineStale, read_manifest
from edge.engines.opening import open_engine, stale_engine
from edge.engines.tensorrt_runtime import load_tensorrt
from edge.errors import ConfigurationInvalid
from edge.pipeline.parts import EngineNotBuilt, read_parts
from edge.settings.models import EngineSettings
from export.benchmark.commands import bench_command
from export.commands import build_command
from export.engine import run_in_thread
from export.engine_plan import BuildCancelled, BuildFailed, build_plan
from tests.engines import build, on_gpu


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(CLASSIFIER)


@dataclass(frozen=True)
class Engine:
    """A built engine that a test may spoil."""

    bundle: Bundle
    settings: EngineSettings
    place: EnginePath

    def reasons(self, **changes: object) -> str:
        settings = msgspec.structs.replace(self.settings, **changes)
        path, reasons = stale_engine(self.bundle, settings)
        assert path == self.place
        return "; ".join(reasons)


@pytest.fixture(scope="module")
def built(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an engine that no test may change."""
    folder = tmp_path_factory.mktemp("built")
    build(bundle, on_gpu(folder))
    return folder


@pytest.fixture
def engine(bundle: Bundle, built: Path, tmp_path: Path) -> Engine:
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    settings = on_gpu(tmp_path)
    path, reasons = stale_engine(bundle, settings)
    assert reasons == []
    return Engine(bundle, settings, path)


def test_the_passport_says_what_was_built_where_and_how_it_did(engine: Engine) -> None:
    manifest = read_manifest(engine.place)

    assert manifest.order.precision == "fp32"
    assert manifest.order.shapes["image"] == (
        (1, 80, 80, 3),
        (4, 80, 80, 3),
        (16, 80, 80, 3),
    )
    assert manifest.site.compute_capability.count(".") == 1
    assert manifest.has_tf32 is False
    assert {t.name for t in manifest.tensors} == {"image", "logits", "probabilities"}
    assert manifest.parity.worst.keys() == {"logits", "probabilities"}
    assert manifest.parity.worst["probabilities"] < 2e-3
    assert manifest.parity.agreement == 1.0
    assert [latency.rows for latency in manifest.latency] == [1, 4, 16]
    assert all(0 < x.median_ms <= x.p99_ms for x in manifest.latency)
    assert manifest.latency[0].median_ms < manifest.latency[-1].median_ms


def edit(part: str, **changes: object) -> Callable[[Engine], None]:
    def spoil(engine: Engine) -> None:
        record = json.loads(engine.place.manifest.read_text())
        (record[part] if part else record).update(changes)
        engine.place.manifest.write_text(json.dumps(record))

    return spoil


def flip(engine: Engine) -> None:
    data = bytearray(engine.place.plan.read_bytes())
    data[len(data) // 2] ^= 1
    engine.place.plan.write_bytes(data)


SPOILT: dict[str, tuple[Callable[[Engine], None], str]] = {
    "no engine": (
        lambda e: [f.unlink() for f in (e.place.plan, e.place.manifest)],  # type: ignore[list-item,return-value]
        "there is none in",
    ),
    "power cut": (lambda e: e.place.manifest.unlink(), "was not finished"),
    "torn passport": (
        lambda e: e.place.manifest.write_text(e.place.manifest.read_text()[:200]),  # type: ignore[return-value]
        "passport.json cannot be read",
    ),
    "later format": (edit("", format=2), "passport.json cannot be read"),
    "no plan": (lambda e: e.place.plan.unlink(), "plan cannot be read"),
    "altered plan": (flip, "its plan was altered: sha256"),
    "other model": (edit("order", onnx_sha256="0" * 64), "onnx_sha256 000000000000…"),
    "other precision": (edit("order", precision="fp16"), "precision fp16, now fp32"),
    "other range": (
        edit("order", shapes={"image": [[1, 80, 80, 3]] * 3}),
        "built from shapes image",
    ),
    "other TensorRT": (edit("site", tensorrt="10.2.9"), "tensorrt 10.2.9, now "),
    "other flavour": (
        edit("site", flavour="tensorrt_rtx"),
        "flavour tensorrt_rtx, now tensorrt",
    ),
    "other GPU": (edit("site", gpu="Orin"), "gpu Orin, now "),
    "other capability": (
        edit("site", compute_capability="7.2"),
        "compute_capability 7.2, now ",
    ),
    "other Jetson Linux": (edit("site", l4t="35.4.1"), "l4t 35.4.1, now "),
    "other machine": (edit("site", machine="aarch64x"), "machine aarch64x, now "),
}


@pytest.mark.parametrize("why", SPOILT)
def test_an_engine_that_may_not_be_loaded_is_explained_and_built_again(
    engine: Engine, why: str
) -> None:
    spoil, says = SPOILT[why]
    spoil(engine)

    assert says in engine.reasons()
    with pytest.raises(EngineStale, match="hemascope build") as error:
        open_engine(engine.bundle, engine.settings)
    assert says in str(error.value)
    assert error.value.exit_code == 78

    arguments = [str(engine.bundle.folder), "--batch", "1,4,16", "--engines"]
    arguments.append(str(engine.settings.engines))
    done = CliRunner().invoke(build_command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert says.split("…")[0] in " ".join(done.output.split())
    assert engine.reasons() == ""
    open_engine(engine.bundle, engine.settings).close()


def test_a_good_engine_is_left(engine: Engine) -> None:
    before = engine.place.manifest.stat().st_mtime_ns
    arguments = [str(engine.bundle.folder), "--batch", "1,4,16", "--engines"]
    arguments.append(str(engine.settings.engines))
    done = CliRunner().invoke(build_command, arguments, catch_exceptions=False)
    assert "its self-test passed" in done.output
    assert engine.place.manifest.stat().st_mtime_ns == before

    CliRunner().invoke(build_command, [*arguments, "--force"], catch_exceptions=False)
    assert engine.place.manifest.stat().st_mtime_ns > before


def test_an_engine_that_computes_something_else_is_not_written(
    bundle: Bundle, tmp_path: Path
) -> None:
    golden = dict(bundle.golden)
    golden["logits"] = np.asarray(golden["logits"]) + np.float32(1)
    wrong = Bundle(bundle.record, bundle.id, bundle.folder, bundle.models, golden)
    settings = on_gpu(tmp_path)

    with pytest.raises(BundleRefused, match="off by 1"):
        build(wrong, settings)

    assert not stale_engine(bundle, settings)[0].plan.exists()


def order_and_model(bundle: Bundle) -> tuple[object, bytes]:
    from edge.engines.build_manifest import build_options_of

    return build_options_of(bundle, "fp32", (1, 4, 16)), bundle.model


def test_a_build_tells_how_far_it_is_and_can_be_cancelled(bundle: Bundle) -> None:
    order, model = order_and_model(bundle)
    shares: list[float] = []
    build_plan(
        model,
        order,  # type: ignore[arg-type]
        load_tensorrt(),
        progress=lambda share, phase: shares.append(share),
    )
    assert shares == sorted(shares)
    assert shares[-1] > 0.9
    assert len(set(shares)) > 10

    cancel = threading.Event()
    with pytest.raises(BuildCancelled):
        build_plan(
            model,
            order,  # type: ignore[arg-type]
            load_tensorrt(),
            progress=lambda share, phase: cancel.set() if share > 0.3 else None,
            cancel=cancel,
        )


def test_control_c_cancels_and_leaves_nothing(tmp_path: Path) -> None:
    """The interrupt reaches the main thread while another builds."""
    script = (
        "import signal, threading, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # may be ignored\n"
        "from export.engine import run_in_thread\n"
        "from export.engine_plan import BuildCancelled\n"
        "cancel = threading.Event()\n"
        "def work():\n"
        "    time.sleep(0.5); print('working', flush=True)\n"
        "    if not cancel.wait(20): return None\n"
        "    raise BuildCancelled('cancelled')\n"
        "try:\n"
        "    run_in_thread(work, cancel)\n"
        "except BuildCancelled as error:\n"
        "    raise SystemExit(error.exit_code)\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        start = time.monotonic()
        process.send_signal(signal.SIGINT)

        assert process.wait(15) == 130
    assert time.monotonic() - start < 10


def test_what_the_work_raises_reaches_whoever_waits() -> None:
    def work() -> None:
        raise BuildFailed("no")

    with pytest.raises(BuildFailed, match="no"):
        run_in_thread(work, threading.Event())  # type: ignore[arg-type]


def test_a_node_that_is_not_understood_is_named(bundle: Bundle) -> None:
    onnx = pytest.importorskip("onnx")
    order, model = order_and_model(bundle)
    strange = onnx.load_from_string(model)
    strange.graph.node[3].op_type = "NoSuchOperator"

    with pytest.raises(BuildFailed, match=r"node .*\(.*\): "):
        build_plan(strange.SerializeToString(), order, load_tensorrt())  # type: ignore[arg-type]


def test_what_is_no_model_is_no_engine(bundle: Bundle) -> None:
    order, _ = order_and_model(bundle)

    with pytest.raises(BuildFailed, match="export it again"):
        build_plan(b"\x08\x0a" * 50, order, load_tensorrt())  # type: ignore[arg-type]


def test_no_memory_is_explained(bundle: Bundle) -> None:
    order, model = order_and_model(bundle)

    with pytest.raises(BuildFailed, match=r"of 1 MiB free; this is also how TensorRT"):
        build_plan(model, order, load_tensorrt(), free_bytes=1 << 20)  # type: ignore[arg-type]


def test_timings_of_the_last_build_are_used_and_foreign_ones_left_out(
    bundle: Bundle, tmp_path: Path
) -> None:
    trt = load_tensorrt()
    if not hasattr(trt, "seen_timings"):
        pytest.skip("a real TensorRT tells nobody what it was given")
    order, model = order_and_model(bundle)
    cache = tmp_path / "timing.cache"

    build_plan(model, order, trt, cache=cache)  # type: ignore[arg-type]
    first = cache.read_bytes()
    build_plan(model, order, trt, cache=cache)  # type: ignore[arg-type]
    cache.write_bytes(b"of another device")
    build_plan(model, order, trt, cache=cache)  # type: ignore[arg-type]

    assert trt.seen_timings[-4:] == [b"", first, b"of another device", b""]
    assert cache.read_bytes() == first


def test_a_plan_that_fits_but_fails_is_built_again(engine: Engine) -> None:
    """As after an update that changes no version that anybody tells."""
    plan = b"a plan of yesterday"
    engine.place.plan.write_bytes(plan)
    edit("", plan_sha256=hashlib.sha256(plan).hexdigest())(engine)
    assert engine.reasons() == ""

    arguments = [str(engine.bundle.folder), "--batch", "1,4,16", "--engines"]
    arguments.append(str(engine.settings.engines))
    done = CliRunner().invoke(build_command, arguments, catch_exceptions=False)

    assert "refuses the plan" in " ".join(done.output.split())
    open_engine(engine.bundle, engine.settings).close()


def test_a_folder_that_cannot_be_written_is_said_before_building(
    bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigurationInvalid, match=r"cannot be written.*--engines"):
        build(bundle, on_gpu(tmp_path / "file"))


def test_the_exit_code_of_building_is_passed_on() -> None:
    assert EngineNotBuilt("edge build", 78).exit_code == 78
    assert EngineNotBuilt("edge build", -9).exit_code == 1


def test_run_builds_what_is_stale_and_examines_with_it(tmp_path: Path) -> None:
    """The whole device on TensorRT: settings in, engines built, rows in the ledger."""
    config = tmp_path / "device.toml"
    config.write_text(
        'device = "bench"\n'
        '[source]\nkind = "simulated"\nwidth_px = 640\nheight_px = 480\nrate_hz = 0\n'
        '[model]\nengine = "tensorrt"\nengines = "engines"\nbatch = [1, 8, 32]\n'
        '[ledger]\nfolder = "ledger"\n[run]\nworkers = 2\n'
    )
    command = [sys.executable, "-m", "edge", "run", "--config", str(config)]

    first = subprocess.run(
        [*command, "--frames", "4"], capture_output=True, text=True, timeout=170
    )
    again = subprocess.run(
        [*command, "--frames", "4"], capture_output=True, text=True, timeout=170
    )

    assert first.returncode == 0, first.stderr
    assert "there is none in" in first.stderr
    names = {p.parent.parent.name for p in (tmp_path / "engines").rglob("*.plan")}
    assert names == {"inception-cells4", "locator"}
    assert again.returncode == 0, again.stderr
    assert "is built" not in again.stderr
    assert "failed" not in again.stderr


def test_a_precision_that_the_bundle_has_not_is_refused() -> None:
    settings = EngineSettings(engine="tensorrt", precision="int8")
    with pytest.raises(BundleRefused, match=r"no int8; export it with"):
        read_parts(engine=settings)
    assert LOCATOR.exists()


BATCH_COLUMNS = ("| 1", "| 8", "| 3", "| 6")


def test_the_benchmark_measures_every_precision_and_batch(tmp_path: Path) -> None:
    out = tmp_path / "gpu.md"

    arguments = ["--engine", "tensorrt", "--rounds", "2", "--out", str(out)]
    done = CliRunner().invoke(bench_command, arguments, catch_exceptions=False)

    assert done.exit_code == 0
    text = out.read_text()
    assert "GPU: " in text
    assert "kernels alone | TensorRT, graphs | TensorRT, no graphs" in text
    rows = [line for line in text.splitlines() if line[:3] in BATCH_COLUMNS]
    assert len(rows) == 4 * len(load_bundle(CLASSIFIER).models)
    medians = [float(cell.split()[0]) for cell in rows[0].split("|")[2:-1]]
    assert all(value > 0 for value in medians)
