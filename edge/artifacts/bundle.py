"""The bundle: a model and everything a device must know to trust and run it.

A folder with `bundle.json`, `model.onnx` and `golden.npz`, and `model-fp16.onnx` or
`model-int8.onnx` where it was exported in those precisions too. Nothing in it is
executable. Engines that a device builds of it lie beside it, in `engines/`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edge.artifacts.array_files import read_arrays
from edge.bounded_files import read_bounded
from edge.errors import HemascopeError
from edge.schema.codec import encode, read_json
from edge.settings.models import Lowered, Precision

SHIPPED = Path(__file__).parents[1] / "bundles"
CLASSIFIER, LOCATOR = SHIPPED / "inception-cells4", SHIPPED / "locator"
ON_REFERENCE = SHIPPED / "inception-cells4-reference"  # of slides with a reference
SEQUENCE = SHIPPED / "rnn-change"
MODEL, GOLDEN = "model.onnx", "golden.npz"
INT8_CROPS = "int8-crops.json"
_MAX_FILE_BYTES = 1 << 29  # 512 MiB; the shipped models have 5 MB
_MAX_GOLDEN_BYTES = 1 << 28  # of all golden arrays, unpacked
_PER_CLASS = ("logits", "probabilities", "likely")  # outputs with a value per class
_MODEL_FILES: dict[Precision, str] = {
    "fp32": MODEL,
    "fp16": "model-fp16.onnx",
    "int8": "model-int8.onnx",
}

Byte = Annotated[int, Meta(ge=0, le=255)]
Share = Annotated[float, Meta(ge=0, le=1)]


class BundleRefused(HemascopeError):
    """The bundle is incomplete, altered or wrong; it is not run."""

    exit_code = 78


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class CellClass(_Record, frozen=True, kw_only=True):
    """One class: its name and its Cell Ontology id, None if it is no cell."""

    name: str
    ontology: str | None


class InputSpec(_Record, frozen=True, kw_only=True):
    """The input of the graph: (N, size, size, 3) uint8 RGB; None is any size.

    `context` is the side of the window that a crop shows, divided by the longer side of
    the cell's box.
    """

    size_px: Annotated[int, Meta(gt=0, le=2048)] | None
    context: Annotated[float, Meta(gt=0, le=100)] = 1.0


class LocationSpec(_Record, frozen=True, kw_only=True):
    """How a locator is used.

    `diameter_px`: frames are reduced until a red cell has this diameter; `stride_px`:
    frame pixels per output cell; `thresholds`: the lowest probability of each class;
    `overlap`: boxes with a larger intersection over union are one cell; `fill`: the RGB
    of background, with which a frame is padded to whole output cells; `trust`: weight
    of the locator's class beside the classifier's, 1 as an independent opinion, 0 none.
    """

    diameter_px: Annotated[float, Meta(gt=0, le=1000)]
    stride_px: Annotated[int, Meta(gt=0, le=1000)]
    thresholds: tuple[Share, ...]
    overlap: Share
    fill: tuple[Byte, Byte, Byte]
    trust: Annotated[float, Meta(ge=0, le=100)]


class Metric(_Record, frozen=True, kw_only=True):
    """A figure with its 95 % interval and the number of rows it was measured on."""

    value: float
    low: float
    high: float
    rows: int

    def __str__(self) -> str:
        """Value, interval and rows in words."""
        return f"{self.value:.4f} ({self.low:.4f} to {self.high:.4f}, {self.rows} rows)"


class ModelSize(_Record, frozen=True, kw_only=True):
    """Weights, and floating-point operations for one crop (a multiply-add is two)."""

    parameters: Annotated[int, Meta(gt=0)]
    operations: Annotated[int, Meta(gt=0)]


class PrecisionRecord(_Record, frozen=True, kw_only=True):
    """The accuracy that a lower precision costs, on `rows` cells never trained on.

    It is compared with fp32.

    `worst_logit`: largest difference; `agreement`: share of cells named alike;
    `balanced_accuracy` of this precision and of fp32, over the classes that occur.
    `is_forced`: it was exported although `agreement` is too low.
    """

    rows: Annotated[int, Meta(gt=0)]
    split: str
    data_sha256: str
    worst_logit: Annotated[float, Meta(ge=0)]
    agreement: Share
    balanced_accuracy: Share
    balanced_accuracy_fp32: Share
    is_forced: bool

    def __str__(self) -> str:
        """Describe it in words."""
        forced = ", too few, but forced" if self.is_forced else ""
        return (
            f"{self.agreement:.2%} of {self.rows} cells of {self.split} named as by "
            f"fp32{forced}; balanced accuracy {self.balanced_accuracy_fp32:.4f} to "
            f"{self.balanced_accuracy:.4f}; logits differ by at most "
            f"{self.worst_logit:.4f}"
        )


class TrainingSummary(_Record, frozen=True, kw_only=True):
    """The data and the settings that the weights were trained with.

    `licences` and `domains` count labelled rows; `added` counts rows that no person
    labelled: simulated slides, cells that a locator found.
    """

    rows: int
    licences: dict[str, int]
    domains: dict[str, int]
    added: dict[str, int]
    data_sha256: str
    split_rule: str
    command: str
    seed: int
    epochs: int
    seconds: float
    software: dict[str, str]


class BundleRecord(_Record, frozen=True, kw_only=True):
    """`bundle.json`. `files` maps each file of the bundle to its sha256."""

    format: Literal[1] = 1
    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$(?!\n)")]
    family: str
    task: str
    created_at: datetime
    files: dict[str, str]
    classes: Annotated[tuple[CellClass, ...], Meta(min_length=1, max_length=1000)]
    input: InputSpec
    outputs: tuple[str, ...]
    state_size: Annotated[int, Meta(gt=0, le=65536)] | None = None
    temperature: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    abstain_below: Share = 0.0
    location: LocationSpec | None = None
    size: ModelSize | None = None
    precisions: dict[Lowered, PrecisionRecord] = {}
    training: TrainingSummary
    metrics: dict[str, Metric]


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A bundle whose files match the hashes in `bundle.json`.

    `models` holds the bytes of the ONNX file of each precision; `golden` the arrays of
    the self-test: `image`, `state` of a recurrent model, and one per output, named
    such as `fp16.logits` for a lower precision. `id` is the name and the first digits
    of the sha256 of `bundle.json`, which covers every file.
    """

    record: BundleRecord
    id: str
    folder: Path
    models: Mapping[Precision, bytes]
    golden: Mapping[str, NDArray[np.generic]]

    @property
    def model(self) -> bytes:
        """The ONNX file in float32."""
        return self.models["fp32"]

    def cost_of(self, precision: Precision) -> PrecisionRecord | None:
        """Return what a lower precision costs; None for float32."""
        costs = self.record.precisions.items()
        return next((cost for name, cost in costs if name == precision), None)

    def model_of(self, precision: Precision) -> bytes:
        """Return the ONNX file of a precision.

        Raises
        ------
        BundleRefused
            It was not exported in this precision.
        """
        if precision not in self.models:
            raise BundleRefused(
                f"{self.id}: has {sorted(self.models)}, no {precision}; export it with "
                f"--precision {precision}"
            )
        return self.models[precision]

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names in the order of the model's outputs."""
        return tuple(c.name for c in self.record.classes)


def crop_size(bundle: Bundle) -> int:
    """Return the side (px) of the crops that a classifier takes.

    Raises
    ------
    BundleRefused
        The model takes no crops: it is no classifier.
    """
    size_px = bundle.record.input.size_px
    if size_px is None:
        raise BundleRefused(f"{bundle.id}: has no crop size; it is no classifier")
    return size_px


def first_state(bundle: Bundle, cells: int) -> NDArray[np.float32] | None:
    """Return the state (cells, D) of cells never seen before; None without a memory."""
    size = bundle.record.state_size
    return None if size is None else np.zeros((cells, size), np.float32)


def load_bundle(folder: Path, *, task: str | None = None) -> Bundle:
    """Load a bundle and check every file against its hash.

    Parameters
    ----------
    folder
        The bundle.
    task
        The task it must be for; None accepts any.

    Raises
    ------
    ConfigurationInvalid
        `bundle.json` is missing or is not a valid record of a bundle.
    BundleRefused
        A file is missing, altered or unknown, or the task is another.
    """
    record = read_json(folder / "bundle.json", BundleRecord)
    named = expected_files(record)
    if set(record.files) != named:
        raise BundleRefused(
            f"{folder}: bundle.json lists {sorted(record.files)}, expected "
            f"{sorted(named)}; export it again"
        )
    if task is not None and record.task != task:
        raise BundleRefused(
            f"{folder}: its task is {record.task!r}, expected {task!r}; choose another "
            "bundle"
        )
    content = {
        name: _verified(folder / name, record.files[name]) for name in record.files
    }
    try:
        golden = read_arrays(content[GOLDEN], _MAX_GOLDEN_BYTES)
    except ValueError as error:
        raise BundleRefused(
            f"{folder / GOLDEN}: {error}; export the bundle again"
        ) from error
    _check_fit(folder, record, golden)
    digest = hashlib.sha256(encode(record)).hexdigest()
    models = {p: content[file] for p, file in _MODEL_FILES.items() if file in content}
    return Bundle(record, f"{record.name}@{digest[:12]}", folder, models, golden)


def expected_files(record: BundleRecord) -> set[str]:
    """Names of the files beside `bundle.json`."""
    files = {MODEL, GOLDEN, *(_MODEL_FILES[p] for p in record.precisions)}
    return files | ({INT8_CROPS} if "int8" in record.precisions else set())


def save_bundle(
    folder: Path,
    record: BundleRecord,
    models: Mapping[Precision, bytes],
    golden: Mapping[str, NDArray[np.generic]],
    int8_crops: bytes | None = None,
) -> Bundle:
    """Write a bundle, `bundle.json` last, and return it as loaded.

    `int8_crops` lists the crops that the ranges of int8 were measured on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for precision, model in models.items():
        (folder / _MODEL_FILES[precision]).write_bytes(model)
    if int8_crops is not None:
        (folder / INT8_CROPS).write_bytes(int8_crops)
    np.savez_compressed(folder / GOLDEN, allow_pickle=False, **golden)
    files = {
        n: hashlib.sha256((folder / n).read_bytes()).hexdigest()
        for n in sorted(expected_files(record))
    }
    record = msgspec.structs.replace(record, files=files)
    (folder / "bundle.json").write_bytes(msgspec.json.format(encode(record)) + b"\n")
    return load_bundle(folder)


def _check_fit(
    folder: Path, record: BundleRecord, golden: Mapping[str, NDArray[np.generic]]
) -> None:
    """Refuse a record that the golden input and outputs of the model contradict."""
    classes, size_px = len(record.classes), record.input.size_px
    if record.location is not None and len(record.location.thresholds) != classes:
        raise BundleRefused(
            f"{folder}: {len(record.location.thresholds)} thresholds for {classes} "
            "classes, expected one each; export it again"
        )
    for name, values in golden.items():
        output = name.rpartition(".")[2]  # fp16.logits is that of a lower precision
        if output in _PER_CLASS and (values.ndim < 2 or values.shape[-1] != classes):
            raise BundleRefused(
                f"{folder}: bundle.json has {classes} classes, {name} of the model "
                f"the shape {values.shape}, expected {classes} at its end; export it "
                "again"
            )
        if output == "state" and values.shape[1:] != (record.state_size,):
            raise BundleRefused(
                f"{folder}: state_size is {record.state_size}, the model's state has "
                f"the shape {values.shape}; export it again"
            )
    image = golden.get("image")
    sides = None if image is None else image.shape[1:]
    if size_px is not None and sides not in (None, (size_px, size_px, 3)):
        raise BundleRefused(
            f"{folder}: size_px is {size_px}, the model's golden crops are {sides}, "
            f"expected {(size_px, size_px, 3)}; export it again"
        )


def _verified(path: Path, sha256: str) -> bytes:
    try:
        data = read_bounded(path, _MAX_FILE_BYTES)
    except OSError as error:
        raise BundleRefused(
            f"{path}: {error.strerror}; copy the bundle again"
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise BundleRefused(
            f"{path}: sha256 is {found[:12]}…, bundle.json says {sha256[:12]}…; the "
            "file was altered or damaged, copy the bundle again"
        )
    return data
