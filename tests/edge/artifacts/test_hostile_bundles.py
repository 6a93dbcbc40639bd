"""A bundle of somebody else: refused in one line, quickly, and with little memory."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy_format

from edge.artifacts.array_files import read_array, read_arrays
from edge.artifacts.bundle import CLASSIFIER, SEQUENCE, load_bundle
from edge.artifacts.profile import ProfileMismatch, load_profile
from edge.errors import HemascopeError

ROOT = Path(__file__).parents[3]
Change = Callable[[dict[str, Any]], object]
CHANGES: list[tuple[Change, str]] = [
    (lambda r: r.update(classes=[]), "classes"),
    (lambda r: r["classes"].append({"name": "X", "ontology": None}), "5 classes"),
    (lambda r: r["classes"].pop(), "3 classes"),
    (lambda r: r["input"].update(size_px=100_000), "size_px"),
    (lambda r: r["input"].update(size_px=64), "size_px is 64"),
    (lambda r: r["input"].update(context=1e300), "context"),
    (lambda r: r.update(temperature=1e300), "temperature"),
]


def altered(folder: Path, change: Change, of: Path = CLASSIFIER) -> Path:
    shutil.copytree(of, folder)
    record = json.loads((folder / "bundle.json").read_text())
    change(record)
    (folder / "bundle.json").write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize(("change", "says"), CHANGES)
def test_a_record_that_does_not_fit_its_model_is_refused(
    tmp_path: Path, change: Change, says: str
) -> None:
    with pytest.raises(HemascopeError, match=says) as error:
        load_bundle(altered(tmp_path / "bundle", change))

    assert error.value.exit_code == 78


def test_a_state_of_another_size_is_refused(tmp_path: Path) -> None:
    folder = altered(tmp_path / "bundle", lambda r: r.update(state_size=7), SEQUENCE)

    with pytest.raises(HemascopeError, match="state_size is 7"):
        load_bundle(folder)


def bomb() -> bytes:
    """An archive of 400 kB with an array of 400 MB."""
    header = io.BytesIO()
    about = {"descr": "|u1", "fortran_order": False, "shape": (400_000_000,)}
    npy_format.write_array_header_1_0(header, about)
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("image.npy", "w") as file,
    ):
        file.write(header.getvalue())
        for _ in range(400):
            file.write(bytes(1_000_000))
    return packed.getvalue()


def test_an_archive_that_unpacks_to_much_more_is_not_unpacked() -> None:
    data = bomb()
    assert len(data) < 1_000_000
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start_s = time.monotonic()

    with pytest.raises(ValueError, match=r"400,000,\d+ bytes, expected at most"):
        read_arrays(data, 1 << 28)

    assert time.monotonic() - start_s < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 100_000


def test_a_header_that_promises_more_than_is_there_allocates_nothing() -> None:
    header = io.BytesIO()
    about = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 3)}
    npy_format.write_array_header_1_0(header, about)

    with pytest.raises(ValueError, match="expected plain values of at most"):
        read_array(header.getvalue(), 1 << 29)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["u1", "<f4", ">f4", "<i8"])
def test_arrays_are_read_as_numpy_reads_them(kind: str, order: Any) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(kind, order=order)
    file = io.BytesIO()
    np.savez_compressed(file, a=array, b=np.float32(1))

    found = read_arrays(file.getvalue(), 1000)

    np.testing.assert_array_equal(found["a"], array)
    assert found["a"].dtype == array.dtype
    assert found["b"].shape == ()


def test_objects_are_not_read() -> None:
    file = io.BytesIO()
    np.savez(file, a=np.array([print], object))

    with pytest.raises(ValueError, match="plain values"):
        read_arrays(file.getvalue(), 1000)


@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "huge"])
def test_a_model_that_is_no_file_of_a_sensible_size_is_one_line(
    tmp_path: Path, kind: str
) -> None:
    folder = Path(shutil.copytree(CLASSIFIER, tmp_path / "bundle"))
    model = folder / "model.onnx"
    model.unlink()
    if kind == "device":
        model.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(model)
    elif kind == "folder":
        model.mkdir()
    else:
        with model.open("wb") as file:
            file.truncate(6_000_000_000)
    start_s = time.monotonic()

    with pytest.raises(HemascopeError, match=r"expected|directory") as error:
        load_bundle(folder)

    assert time.monotonic() - start_s < 5
    assert error.value.exit_code == 78


def test_run_refuses_a_bundle_in_one_line(tmp_path: Path) -> None:
    folder = altered(tmp_path / "bundle", lambda r: r["classes"].pop())
    (tmp_path / "device.toml").write_text(
        'device = "scope-01"\n[source]\nkind = "simulated"\n'
        f'[ledger]\nfolder = "ledger"\n[model]\nbundle = "{folder}"\n'
    )

    done = subprocess.run(
        [sys.executable, "-m", "edge", "run", "--config", tmp_path / "device.toml"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=60,
    )

    assert done.returncode == 78
    (line,) = done.stderr.splitlines()
    assert "3 classes" in line


def test_a_flat_field_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    about = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 3, 3)}
    npy_format.write_array_header_1_0(header, about)
    (tmp_path / "flat_field.npy").write_bytes(header.getvalue())
    digest = hashlib.sha256(header.getvalue()).hexdigest()
    (tmp_path / "profile.json").write_text(json.dumps({"flat_field_sha256": digest}))

    with pytest.raises(ProfileMismatch, match="not an array"):
        load_profile(tmp_path)
