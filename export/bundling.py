"""Turn a training run into a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from calibration.confidence import (
    abstention_threshold,
    expected_calibration_error,
    fit_temperature,
)
from calibration.int8 import Int8Crops, choose_crops
from edge.artifacts.bundle import (
    Bundle,
    BundleRecord,
    CellClass,
    Metric,
    PrecisionRecord,
    save_bundle,
)
from edge.engines import BATCH, NEXT_STATE, STATE
from edge.engines.onnxruntime import OnnxRuntimeEngine
from edge.engines.opening import self_test
from edge.schema.codec import encode
from edge.settings.models import Lowered, Precision
from edge.settings.sources import SimulatedSettings
from edge.simulation.microscope import SimulatedMicroscope
from edge.stages.crops import cut_crops, windows
from edge.taxonomy import ONTOLOGY
from export.onnx import ExportFailed, to_onnx
from export.parity import measure_parity
from export.precision import halve, quantise
from training.choices import LOCATOR
from training.data.clips import Clips
from training.fitting.model_graphs import (
    ClassifierGraph,
    LocatorGraph,
    SequenceGraph,
    TorchEngine,
)
from training.metrics.bootstrap import with_interval
from training.sessions.gathering import CellSource, clips_of, read_usable
from training.sessions.run_folder import (
    HeldOut,
    RunRecord,
    graph_of,
    load_held,
    load_record,
    load_weights,
)

Graph = ClassifierGraph | LocatorGraph
_GOLDEN_CROPS = 6
_GOLDEN_FIELD_PX = (192, 256)


@dataclass(frozen=True, slots=True)
class LowerPrecisions:
    """Lower precisions to export: which ones, compared on which cells.

    `crops` counts the crops that the ranges of int8 are measured on. `is_forced` also
    accepts a precision that names too many cells differently from float32.
    """

    precisions: tuple[Lowered, ...]
    source: CellSource
    crops: int = 256
    is_forced: bool = False


@dataclass(frozen=True, slots=True)
class _Confidence:
    """Temperature and abstention threshold of a model, and its metrics."""

    temperature: float
    abstain_below: float
    metrics: dict[str, Metric]


@dataclass(slots=True)
class _BundleFiles:
    """What a bundle holds besides its record; each precision adds to it.

    `golden` are the arrays of the self-test: (N, S, S, 3) uint8 images, the outputs
    float32. `costs` says what each lower precision changes; `int8_crops` which crops
    the ranges of int8 come from.
    """

    models: dict[Precision, bytes]
    golden: dict[str, NDArray[np.generic]]
    costs: dict[Lowered, PrecisionRecord]
    int8_crops: Int8Crops | None = None


def export_run(
    run: Path,
    out: Path,
    name: str,
    created_at: datetime,
    *,
    error_rate: float,
    max_abstained: float,
    lower_precisions: LowerPrecisions | None = None,
) -> Bundle:
    """Export a run: calibrate confidence, write ONNX, golden data and `bundle.json`.

    The golden input comes from the simulated microscope, so that no image of a real
    person travels with a model.

    Parameters
    ----------
    run, out
        Folders of the training run and of the bundle.
    name, created_at
        Of the bundle.
    error_rate, max_abstained
        See `calibration.confidence.abstention_threshold`.
    lower_precisions
        Lower precisions, if any.

    Raises
    ------
    ParityRefused, CropsRefused
        A lower precision differs too much from float32; there are no crops to measure
        its ranges on.
    ExportFailed
        The file is not what the device takes.
    BundleRefused
        ONNX Runtime computes something else than torch.
    """
    record = load_record(run)
    graph = graph_of(record)
    load_weights(run, graph)
    graph.eval()
    confidence = _calibrate(graph, record, load_held(run), error_rate, max_abstained)
    files = _export_float32(graph, record)
    if lower_precisions is not None:
        _add_lower_precisions(files, graph, record, lower_precisions)
    bundle = save_bundle(
        out,
        _bundle_record(name, created_at, record, graph, confidence, files.costs),
        files.models,
        files.golden,
        _crops_json(files.int8_crops),
    )
    for precision, model in files.models.items():
        self_test(OnnxRuntimeEngine(model), bundle, precision)
    return bundle


def _calibrate(
    graph: Graph,
    record: RunRecord,
    held: HeldOut | None,
    error_rate: float,
    max_abstained: float,
) -> _Confidence:
    """Fit confidence to the cells of `val`, and put the temperature into the graph.

    A locator has no confidence to calibrate, and a run without `val` no cells for it.
    """
    if held is None or not isinstance(graph, ClassifierGraph):
        return _Confidence(1.0, 0.0, dict(record.metrics))
    temperature = round(fit_temperature(held.logits, held.classes), 4)
    threshold = abstention_threshold(
        held.logits, held.classes, temperature, error_rate, max_abstained
    )
    gap = with_interval(
        lambda rows: expected_calibration_error(
            held.logits[rows], held.classes[rows], temperature
        ),
        held.groups.tolist(),
        draws=200,
    )
    graph.temperature.fill_(temperature)
    metrics = {**record.metrics, "val calibration error": gap}
    return _Confidence(temperature, threshold, metrics)


def _export_float32(graph: Graph, record: RunRecord) -> _BundleFiles:
    """Write the float32 file and compute the golden outputs with torch."""
    golden = _golden(graph, _golden_image(record))
    model = to_onnx(graph, _example(golden), _free_axes(record))
    return _BundleFiles({"fp32": model}, golden, {})


def _example(golden: Mapping[str, NDArray[np.generic]]) -> tuple[torch.Tensor, ...]:
    """Return the golden image batch, and the golden state where there is one."""
    return tuple(torch.from_numpy(golden[n]) for n in (BATCH, STATE) if n in golden)


def _free_axes(record: RunRecord) -> tuple[str, ...]:
    """Name the axes of the image that vary at run time."""
    return ("height", "width") if record.family == LOCATOR else ("batch",)


def _add_lower_precisions(
    files: _BundleFiles, graph: Graph, record: RunRecord, wanted: LowerPrecisions
) -> None:
    """Export each lower precision and measure what it costs on the cells of `test`."""
    if not isinstance(graph, ClassifierGraph):
        raise ExportFailed(
            "a locator is exported in fp32 alone: its boxes move in others; leave "
            "--precision out"
        )
    cells = _cut(record, wanted.source)
    for precision in wanted.precisions:
        model = _lower(files, graph, record, precision, cells.train, wanted.crops)
        files.costs[precision] = measure_parity(
            files.models["fp32"],
            model,
            precision,
            cells.test,
            _state_size(graph),
            split="test",
            is_forced=wanted.is_forced,
        )
        files.models[precision] = model
        files.golden |= _golden_of(model, precision, files.golden)


def _lower(
    files: _BundleFiles,
    graph: ClassifierGraph,
    record: RunRecord,
    precision: Lowered,
    train: Clips,
    crops: int,
) -> bytes:
    """Return the ONNX file of a lower precision; int8 is measured on `train`."""
    if precision == "fp16":
        return to_onnx(halve(graph), _example(files.golden), _free_axes(record))
    chosen, files.int8_crops = _choose(train, crops)
    return quantise(files.models["fp32"], train.pixels[chosen, 0])


def _bundle_record(
    name: str,
    created_at: datetime,
    record: RunRecord,
    graph: Graph,
    confidence: _Confidence,
    costs: dict[Lowered, PrecisionRecord],
) -> BundleRecord:
    """Say everything that a device must know of the model."""
    return BundleRecord(
        name=name,
        family=record.family,
        task=record.task,
        created_at=created_at,
        files={},  # `save_bundle` writes them and their sha256
        classes=tuple(CellClass(name=c, ontology=ONTOLOGY[c]) for c in record.classes),
        input=record.input,
        outputs=graph.names,
        state_size=_state_size(graph),
        size=record.size,
        precisions=costs,
        temperature=confidence.temperature,
        abstain_below=round(confidence.abstain_below, 4),
        location=record.location,
        training=record.training,
        metrics=confidence.metrics,
    )


def _state_size(graph: Graph) -> int | None:
    """Numbers that a recurrent model carries per cell; None for any other model."""
    return graph.state_size if isinstance(graph, SequenceGraph) else None


def _crops_json(crops: Int8Crops | None) -> bytes | None:
    """Return the file that names the crops of int8, or None without int8."""
    return None if crops is None else msgspec.json.format(encode(crops)) + b"\n"


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """Cells: `train` for the ranges of int8, `test` to compare precisions on."""

    train: Clips
    test: Clips


def _cut(record: RunRecord, source: CellSource) -> _Cells:
    """Cut the cells of `train` and `test` as the device does."""
    gathered = read_usable(replace(source, task=record.task))
    size_px = record.input.size_px or 0
    train, test = (
        clips_of(
            record.task, gathered.parts.get(s, []), s, size_px, record.input.context
        )
        for s in ("train", "test")
    )
    if not len(test.rows):
        raise ExportFailed(
            f"{source.path}: holds no test row of task {record.task!r}; precisions are "
            "compared on cells that nothing was fitted to"
        )
    return _Cells(train, test)


def _choose(train: Clips, count: int) -> tuple[NDArray[np.intp], Int8Crops]:
    """Choose the crops of int8: their indices (count,), and the record of the choice.

    The first frame of a clip stands for it.
    """
    classes = train.classes[:, 0]
    return choose_crops(
        train.pixels[:, 0],
        [row.where or row.path.name for row in train.rows],
        [str(k) for k in classes],
        [row.domain for row in train.rows],
        count,
    )


def _golden_of(
    model: bytes, precision: Precision, golden: Mapping[str, NDArray[np.generic]]
) -> dict[str, NDArray[np.generic]]:
    """Run the file of a lower precision on the golden input.

    Returns its outputs, float32, each named after the precision and the tensor.
    """
    state = golden.get(STATE)
    outputs = OnnxRuntimeEngine(model).infer(
        np.asarray(golden[BATCH], np.uint8),
        None if state is None else np.asarray(state, np.float32),
    )
    named: dict[str, NDArray[np.generic]] = dict(outputs.tensors)
    if outputs.next_state is not None:
        named[NEXT_STATE] = outputs.next_state
    return {f"{precision}.{name}": values for name, values in named.items()}


def _golden(graph: Graph, image: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
    """Return the input of the self-test and the outputs of torch; see `Bundle`.

    `image` is (N, S, S, 3) uint8, or (1, H, W, 3) for a locator. A recurrent model
    starts with the state after it has seen the same cells once.
    """
    engine = TorchEngine(graph)
    golden: dict[str, NDArray[np.generic]] = {BATCH: image}
    state = None
    if isinstance(graph, SequenceGraph):
        unseen = np.zeros((len(image), graph.state_size), np.float32)
        state = engine.infer(image, unseen).next_state
    outputs = engine.infer(image, state)
    if state is not None and outputs.next_state is not None:
        golden |= {STATE: state, NEXT_STATE: outputs.next_state}
    return golden | dict(outputs.tensors)


def _golden_image(record: RunRecord) -> NDArray[np.uint8]:
    """Return the image batch of the self-test: simulated cells, or one field.

    (N, S, S, 3) uint8 RGB crops for a classifier, (1, H, W, 3) for a locator.
    """
    microscope = SimulatedMicroscope(
        SimulatedSettings(width_px=1024, height_px=768, rate_hz=0, seed=7)
    )
    frame = microscope.render(0)
    size_px = record.input.size_px
    if size_px is None:
        height, width = _GOLDEN_FIELD_PX
        return np.ascontiguousarray(frame[::4, ::4][None, :height, :width])
    cells = microscope.truth(0, least_visible=0.99)
    cells.sort(key=lambda cell: cell.label != "WBC")
    boxes = np.array([cell.box for cell in cells[:_GOLDEN_CROPS]], np.float32)
    return cut_crops(frame, windows(boxes, record.input.context), size_px)
