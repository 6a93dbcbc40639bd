"""Compare a model with a memory and one without, on frames that are hard to read.

Both classify the change of a cell in every frame of simulated clips, with more blur,
more noise or a stronger drift of the lamp than they were trained on. For the model
without a memory, the mean over its last frames is evaluated as well: it is the simple
alternative to a memory.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge.artifacts.bundle import Bundle, crop_size
from edge.engines.opening import open_engine
from training.fitting.classifier import predict_clips
from training.synthetic.nuisance_drift import DRIFTING
from training.synthetic.timelapse_clips import simulated_timelapse

CONDITIONS = {
    "as trained": DRIFTING,
    "blur, twice": replace(DRIFTING, focus_px=2 * DRIFTING.focus_px),
    "noise, three times": replace(DRIFTING, noise=3 * DRIFTING.noise),
    "lamp, three times": replace(DRIFTING, lamp=3 * DRIFTING.lamp),
    "all of them": replace(
        DRIFTING,
        focus_px=2 * DRIFTING.focus_px,
        noise=3 * DRIFTING.noise,
        lamp=3 * DRIFTING.lamp,
    ),
}
_SEED, _FRAMES = 77, 20  # clips that no training has seen
_DRAWS = 1000


@dataclass(frozen=True, slots=True)
class Gain:
    """Accuracy per frame in percent, and the gain of the memory in points.

    `alone` is the model without a memory, `smoothed` the mean of its last frames. The
    gain, with its 95 % interval, is over the better of these two.
    """

    condition: str
    memory: float
    alone: float
    smoothed: float
    gain: float
    low: float
    high: float


def measure_gain(memory: Bundle, alone: Bundle, clips: int, smooth: int) -> list[Gain]:
    """Evaluate both on clips of each condition; `smooth` frames make the mean."""
    gains = []
    for name, drift in CONDITIONS.items():
        right = {}
        for bundle in (memory, alone):
            size_px = crop_size(bundle)
            simulated = simulated_timelapse(clips, _FRAMES, size_px, _SEED, drift)
            with closing(open_engine(bundle)) as engine:
                state_size = bundle.record.state_size
                logits = predict_clips(engine, simulated.pixels, state_size)
            right[bundle.id] = logits.argmax(axis=2) == simulated.classes
            if bundle is alone:
                mean = _running_mean(logits, smooth)
                right["smoothed"] = mean.argmax(axis=2) == simulated.classes
        best = max(right[alone.id], right["smoothed"], key=lambda r: float(r.mean()))
        each = 100 * (right[memory.id].mean(axis=1) - best.mean(axis=1))
        low, high = _interval(each)
        gains.append(
            Gain(
                name,
                100 * float(right[memory.id].mean()),
                100 * float(right[alone.id].mean()),
                100 * float(right["smoothed"].mean()),
                float(each.mean()),
                low,
                high,
            )
        )
    return gains


def _running_mean(logits: NDArray[np.float32], frames: int) -> NDArray[np.float64]:
    """Mean log-probability (N, T, K) over the last `frames` frames at each frame."""
    certain = logits - np.logaddexp.reduce(logits, axis=2, keepdims=True)
    return np.stack(
        [
            certain[:, max(0, t + 1 - frames) : t + 1].mean(axis=1)
            for t in range(logits.shape[1])
        ],
        axis=1,
    )


def _interval(each: NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of the mean of (N,) values, by bootstrap over clips."""
    random = np.random.default_rng(0)
    drawn = random.integers(0, len(each), (_DRAWS, len(each)))
    low, high = np.percentile(each[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)
