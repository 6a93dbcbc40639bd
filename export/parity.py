"""Measure what a lower precision changes: both files name the same cells."""

from __future__ import annotations

import numpy as np

from edge.artifacts.bundle import PrecisionRecord
from edge.engines.onnxruntime import OnnxRuntimeEngine
from edge.errors import HemascopeError
from edge.settings.models import Precision
from training.data.clips import Clips
from training.data.rows import digest
from training.fitting.classifier import Predictions, predict_clips, predictions_of
from training.metrics.bootstrap import balanced_accuracy

MIN_AGREEMENT: dict[Precision, float] = {"fp16": 0.995, "int8": 0.99}


class ParityRefused(HemascopeError):
    """The lower precision names too many cells differently from float32."""


def measure_parity(
    model: bytes,
    lower_model: bytes,
    precision: Precision,
    clips: Clips,
    state_size: int | None,
    *,
    split: str,
    is_forced: bool = False,
) -> PrecisionRecord:
    """Compare a file of lower precision with the one in float32.

    Parameters
    ----------
    model, lower_model
        ONNX files in float32 and in the lower precision; ONNX Runtime runs both.
    precision
        Of `lower_model`.
    clips
        Cells that nothing was fitted to, of `split`.
    state_size
        Numbers that a recurrent model carries per cell; None for any other model.
    is_forced
        Accept it although too few cells are named alike.

    Raises
    ------
    ParityRefused
        Fewer than 99.5 % (fp16) or 99 % (int8) of the cells are named alike, and
        `is_forced` is false.
    """
    reference, lower = (_predict(m, clips, state_size) for m in (model, lower_model))
    named, lower_named = reference.logits.argmax(1), lower.logits.argmax(1)
    agreement = float((named == lower_named).mean())
    required = MIN_AGREEMENT[precision]
    if agreement < required and not is_forced:
        raise ParityRefused(
            f"{precision} names {agreement:.2%} of {len(named)} cells as float32 does, "
            f"expected {required:.1%}; leave it out, or --force"
        )
    return PrecisionRecord(
        rows=len(named),
        split=split,
        data_sha256=digest(clips.rows),
        worst_logit=round(float(np.abs(reference.logits - lower.logits).max()), 6),
        agreement=round(agreement, 6),
        balanced_accuracy=round(balanced_accuracy(lower_named, lower.classes), 6),
        balanced_accuracy_fp32=round(balanced_accuracy(named, reference.classes), 6),
        is_forced=agreement < required,
    )


def _predict(model: bytes, clips: Clips, state_size: int | None) -> Predictions:
    """Run an ONNX file on every frame of clips (N, T, S, S, 3) uint8."""
    logits = predict_clips(OnnxRuntimeEngine(model), clips.pixels, state_size)
    return predictions_of(logits, clips, has_memory=state_size is not None)
