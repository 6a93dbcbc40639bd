"""What a lower precision costs: the same cells through both files."""

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

LEAST_AGREEMENT: dict[Precision, float] = {"fp16": 0.995, "int8": 0.99}


class ParityRefused(HemascopeError):
    """The lower precision names too many cells otherwise than float32."""


def measure_parity(
    model: bytes,
    lower: bytes,
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
    model, lower
        ONNX files; ONNX Runtime runs both.
    precision
        Of `lower`.
    clips
        Cells that nothing was fitted to, of `split`.
    state_size
        Of a recurrent model.
    is_forced
        Take it although it agrees too little.

    Raises
    ------
    ParityRefused
        Fewer than 99.5 % (fp16) or 99 % (int8) of the cells are named alike, and
        nobody forces it.
    """
    wanted, found = (_said(file, clips, state_size) for file in (model, lower))
    named, other = wanted.logits.argmax(1), found.logits.argmax(1)
    agreement = float((named == other).mean())
    least = LEAST_AGREEMENT[precision]
    if agreement < least and not is_forced:
        raise ParityRefused(
            f"{precision} names {agreement:.2%} of {len(named)} cells as float32 does, "
            f"expected {least:.1%}; leave it out, or --force"
        )
    return PrecisionRecord(
        rows=len(named),
        split=split,
        data_sha256=digest(clips.rows),
        worst_logit=round(float(np.abs(wanted.logits - found.logits).max()), 6),
        agreement=round(agreement, 6),
        balanced_accuracy=round(balanced_accuracy(other, found.classes), 6),
        balanced_accuracy_fp32=round(balanced_accuracy(named, wanted.classes), 6),
        is_forced=agreement < least,
    )


def _said(model: bytes, clips: Clips, state_size: int | None) -> Predictions:
    logits = predict_clips(OnnxRuntimeEngine(model), clips.pixels, state_size)
    return predictions_of(logits, clips, has_memory=state_size is not None)
