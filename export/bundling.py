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
from training.data.clips import Clips
from training.fitting.families import LOCATOR
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

_GOLDEN_CROPS = 6
_GOLDEN_FIELD_PX = (192, 256)


@dataclass(frozen=True, slots=True)
class LowerPrecisions:
    """Lower precisions to export: which, on whose cells, and from how many crops.

    `is_forced`: also where too few cells are named alike.
    """

    precisions: tuple[Lowered, ...]
    source: CellSource
    crops: int = 256
    is_forced: bool = False


def export_run(
    run: Path,
    out: Path,
    name: str,
    created_at: datetime,
    *,
    error_rate: float,
    most_abstained: float,
    lower: LowerPrecisions | None = None,
) -> Bundle:
    """Export a run: calibrate confidence, write ONNX, golden data and `bundle.json`.

    The golden input comes from the simulated microscope, so that no image of anybody
    travels with a model.

    Parameters
    ----------
    run, out
        Folders.
    name, created_at
        Of the bundle.
    error_rate, most_abstained
        See `calibration.confidence.abstention_threshold`.
    lower
        Lower precisions, if any.

    Raises
    ------
    ParityRefused, CropsRefused
        A lower precision says something else; there are no crops to measure it by.
    ExportFailed
        The file is not what the device takes.
    BundleRefused
        ONNX Runtime computes something else than torch.
    """
    record = load_record(run)
    graph = graph_of(record)
    load_weights(run, graph)
    graph.eval()
    temperature, abstain_below, metrics = 1.0, 0.0, dict(record.metrics)
    held = load_held(run)
    if isinstance(graph, ClassifierGraph) and held is not None:
        temperature, abstain_below, measured = _confidence(
            held, error_rate, most_abstained
        )
        metrics |= measured
        graph.temperature.fill_(temperature)
    golden = _golden(graph, _golden_image(record))
    example = [torch.from_numpy(golden[n]) for n in (BATCH, STATE) if n in golden]
    free = ("height", "width") if record.family == LOCATOR else ("batch",)
    models: dict[Precision, bytes] = {"fp32": to_onnx(graph, tuple(example), free)}
    costs: dict[Lowered, PrecisionRecord] = {}
    chosen = None
    if lower is not None:
        if not isinstance(graph, ClassifierGraph):
            raise ExportFailed(
                "a locator is exported in fp32 alone: its boxes move in others; leave "
                "--precision out"
            )
        cells = _cut(record, lower.source)
        for precision in lower.precisions:
            if precision == "fp16":
                model = to_onnx(halve(graph), tuple(example), free)
            else:
                places, chosen = _choose(cells.train, lower.crops)
                model = quantise(models["fp32"], cells.train.pixels[places, 0])
            costs[precision] = measure_parity(
                models["fp32"],
                model,
                precision,
                cells.test,
                graph.state_size if isinstance(graph, SequenceGraph) else None,
                split="test",
                is_forced=lower.is_forced,
            )
            models[precision] = model
            golden |= _golden_of(model, precision, golden)
    bundle = save_bundle(
        out,
        BundleRecord(
            name=name,
            family=record.family,
            task=record.task,
            created_at=created_at,
            files={},
            classes=tuple(
                CellClass(name=c, ontology=ONTOLOGY[c]) for c in record.classes
            ),
            input=record.input,
            outputs=graph.names,
            state_size=graph.state_size if isinstance(graph, SequenceGraph) else None,
            size=record.size,
            precisions=costs,
            temperature=temperature,
            abstain_below=round(abstain_below, 4),
            location=record.location,
            training=record.training,
            metrics=metrics,
        ),
        models,
        golden,
        None if chosen is None else msgspec.json.format(encode(chosen)) + b"\n",
    )
    for each, file in models.items():
        self_test(OnnxRuntimeEngine(file), bundle, each)
    return bundle


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """Those that int8 is measured on, and those that precisions are compared on."""

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
    """Return what the file of a lower precision says of the golden input."""
    state = golden.get(STATE)
    outputs = OnnxRuntimeEngine(model).infer(
        np.asarray(golden[BATCH], np.uint8),
        None if state is None else np.asarray(state, np.float32),
    )
    named: dict[str, NDArray[np.generic]] = dict(outputs.tensors)
    if outputs.next_state is not None:
        named[NEXT_STATE] = outputs.next_state
    return {f"{precision}.{name}": values for name, values in named.items()}


def _confidence(
    held: HeldOut, error_rate: float, most_abstained: float
) -> tuple[float, float, dict[str, Metric]]:
    """Temperature, abstention threshold, and how good they are on `val`."""
    temperature = round(fit_temperature(held.logits, held.classes), 4)
    threshold = abstention_threshold(
        held.logits, held.classes, temperature, error_rate, most_abstained
    )
    gap = with_interval(
        lambda i: expected_calibration_error(
            held.logits[i], held.classes[i], temperature
        ),
        held.groups.tolist(),
        draws=200,
    )
    return temperature, threshold, {"val calibration error": gap}


def _golden(
    graph: ClassifierGraph | LocatorGraph, image: NDArray[np.uint8]
) -> dict[str, NDArray[np.generic]]:
    """Return what the self-test shows the graph, and what it says; see `Bundle`.

    A recurrent model has seen the same cells once before.
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
    """Return what the self-test shows the model: simulated cells or a field."""
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
