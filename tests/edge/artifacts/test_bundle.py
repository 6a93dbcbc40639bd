from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge.artifacts.bundle import (
    CLASSIFIER,
    LOCATOR,
    ON_REFERENCE,
    BundleRefused,
    crop_size,
    load_bundle,
    save_bundle,
)
from edge.engines.opening import open_engine
from edge.errors import HemascopeError
from edge.stages.detection import locator_spec


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CLASSIFIER, tmp_path / "bundle"))


def test_the_shipped_bundles_are_what_they_say() -> None:
    for folder in (CLASSIFIER, ON_REFERENCE, LOCATOR):
        bundle = load_bundle(folder)
        open_engine(bundle).close()
        assert sum(p.stat().st_size for p in folder.iterdir()) < 6_000_000
        assert all(
            name.startswith(("MIT", "BSD")) for name in bundle.record.training.licences
        )
        assert bundle.record.metrics


def test_a_bundle_that_is_saved_loads_as_the_same(tmp_path: Path) -> None:
    bundle = load_bundle(CLASSIFIER)

    again = save_bundle(tmp_path, bundle.record, bundle.models, bundle.golden)

    assert again.record.classes == bundle.record.classes
    assert again.model == bundle.model
    for name, values in bundle.golden.items():
        np.testing.assert_array_equal(again.golden[name], values)


def edit(change: Callable[[dict[str, object]], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        record = json.loads((folder / "bundle.json").read_text())
        change(record)
        (folder / "bundle.json").write_text(json.dumps(record))

    return apply


def flip(name: str) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)

    return apply


def cut(name: str) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return apply


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (flip("model.onnx"), "altered or damaged"),
    (flip("golden.npz"), "altered or damaged"),
    (cut("model.onnx"), "altered or damaged"),
    (cut("bundle.json"), "bundle.json"),
    (lambda folder: (folder / "model.onnx").unlink(), "No such file"),
    (lambda folder: (folder / "bundle.json").unlink(), "cannot be read"),
    (edit(lambda r: r.update(format=2)), "format"),
    (edit(lambda r: r.update(unknown=1)), "unknown field"),
    (edit(lambda r: r.update(name="Not A Name")), "name"),
    (edit(lambda r: r.update(temperature=0)), "temperature"),
    (edit(lambda r: r["files"].update({"run.sh": "0" * 64})), "run.sh"),
    (edit(lambda r: r["files"].pop("golden.npz")), "lists"),
]


@pytest.mark.parametrize(("damage", "says"), DAMAGES)
def test_a_damaged_bundle_is_refused_with_the_reason(
    copy: Path, damage: Callable[[Path], object], says: str
) -> None:
    damage(copy)

    with pytest.raises(HemascopeError, match=says) as error:
        load_bundle(copy)

    assert error.value.exit_code == 78
    assert str(copy) in str(error.value)


def test_any_single_flipped_byte_of_the_model_is_noticed(copy: Path) -> None:
    model = (copy / "model.onnx").read_bytes()
    for place in np.random.default_rng(0).integers(0, len(model), 20):
        data = bytearray(model)
        data[place] ^= 1 << 3
        (copy / "model.onnx").write_bytes(data)
        with pytest.raises(BundleRefused):
            load_bundle(copy)


def test_a_model_that_computes_something_else_is_refused(copy: Path) -> None:
    bundle = load_bundle(copy)
    golden = dict(bundle.golden)
    golden["logits"] = np.asarray(golden["logits"]) + np.float32(0.1)
    wrong = save_bundle(copy, bundle.record, bundle.models, golden)

    with pytest.raises(BundleRefused, match=r"off by 0\.1"):
        open_engine(wrong)


def test_a_model_of_other_outputs_is_refused(copy: Path) -> None:
    bundle = load_bundle(copy)
    record = msgspec.structs.replace(bundle.record, outputs=("scores",))
    wrong = save_bundle(copy, record, bundle.models, bundle.golden)

    with pytest.raises(BundleRefused, match="scores"):
        open_engine(wrong)


def test_locator_and_classifier_are_not_taken_for_each_other() -> None:
    with pytest.raises(BundleRefused, match="no locator"):
        locator_spec(load_bundle(CLASSIFIER))
    with pytest.raises(BundleRefused, match="no classifier"):
        crop_size(load_bundle(LOCATOR))
    with pytest.raises(BundleRefused, match="expected 'location'"):
        load_bundle(CLASSIFIER, task="location")
