"""Train a classifier of cells, whatever its family.

Everything is a clip here: a crop is a clip of one frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge.engines import Engine
from training.data.clips import ENDED, Clips
from training.data.rows import Crops
from training.fitting.augmentation import (
    MOMENT,
    STOCK_CONTEXT,
    Jitter,
    WindowJitter,
    draw_views,
    jitter_colour,
)
from training.fitting.device import ALONE, TrainingDevice
from training.fitting.loop import FitPlan, Fitted, fit
from training.fitting.model_graphs import (
    ClassifierGraph,
    SequenceGraph,
    Standardise,
    TorchEngine,
)
from training.metrics.bootstrap import balanced_accuracy

_SPARE = 1.1  # pixels of the stock over those needed at the device's context
_FEWEST = 5  # cells of a class in a domain, to count in the choice of an epoch
_SAMPLE = 2000
_BATCH = 256


def stock_px(size_px: int, context: float) -> int:
    """Side of the stock crops from which crops of `size_px` and `context` are drawn."""
    return round(_SPARE * size_px * STOCK_CONTEXT / context)


def as_clips(crops: Crops) -> Clips:
    """Take each crop as a clip of one frame."""
    return Clips(crops.pixels[:, None], crops.classes[:, None], crops.rows)


def as_crops(clips: Clips) -> Crops:
    """Take the first frame of each clip as a crop."""
    return Crops(clips.pixels[:, 0], clips.classes[:, 0], clips.rows)


def as_frames(clips: Clips) -> Clips:
    """Take each frame as a clip of its own, for models without a memory."""
    number, frame = np.nonzero(clips.classes != ENDED)
    return Clips(
        clips.pixels[number, frame][:, None],
        clips.classes[number, frame][:, None],
        tuple(clips.rows[i] for i in number),
    )


@dataclass(frozen=True, slots=True, eq=False)
class BatchSampling:
    """What batches are drawn from and how.

    `frames` is how many a recurrent model is shown of a crop that does not move; such
    a crop is seen anew, at another moment, that many times. Of longer clips a window of
    `window` frames is shown, from anywhere: more clips fit into a batch.
    """

    stock: Clips
    size_px: int
    view: WindowJitter
    jitter: Jitter
    frames: int = 1
    window: int | None = None

    def batches(
        self, size: int, place: TrainingDevice = ALONE
    ) -> Callable[[int], tuple[Tensor, Tensor]]:
        """Return what draws clips of `size` images in all, and the class of each.

        float32 (N, T, 3, S, S) 0 to 255 and (N, T); where T is 1 it is left out.
        """
        longest = self.stock.pixels.shape[1]
        frames = max(self.frames, min(longest, self.window or longest))
        clips = max(1, size // frames)
        weights = torch.from_numpy(_weights(self.stock))
        images = torch.from_numpy(self.stock.pixels)
        classes = torch.from_numpy(self.stock.classes)
        lengths = torch.from_numpy(self.stock.lengths)

        def draw(_chance: int) -> tuple[Tensor, Tensor]:
            drawn = torch.multinomial(weights, clips, replacement=True)
            spare = (lengths[drawn] - frames + 1).clamp(min=1)
            start = (torch.rand(clips) * spare).long()
            shown = start[:, None] + torch.arange(min(frames, longest))
            seen = images[drawn[:, None], shown]
            seen = seen.to(place.device).movedim(-1, 2).float()
            named = classes[drawn[:, None], shown]
            is_still = seen.shape[1] < frames
            if is_still:
                seen = seen.expand(-1, frames, -1, -1, -1)
                named = named.expand(-1, frames)
            flat = draw_views(
                seen.flatten(0, 1),
                self.view,
                self.size_px,
                frames,
                is_shaken=is_still,
            )
            flat = jitter_colour(flat, self.jitter, frames)
            if is_still:
                flat = jitter_colour(flat, MOMENT)
            if frames == 1:
                return flat, named[:, 0]
            return flat.reshape(clips, frames, *flat.shape[1:]), named

        return draw


def train_classifier(
    graph: ClassifierGraph,
    drawing: BatchSampling,
    held: Clips,
    plan: FitPlan,
    *,
    place: TrainingDevice = ALONE,
    folder: Path | None = None,
    purpose: str = "",
) -> Fitted[ClassifierGraph]:
    """Fit a graph to labelled cells.

    Parameters
    ----------
    graph
        Its network has `loss(x, classes)`.
    drawing
        What it is shown.
    held
        Cells of `val`, cut as the device cuts them, to choose the best epoch by.
    plan, place, folder, purpose
        See `training.fitting.loop.fit`.
    """

    def loss(graph: ClassifierGraph, images: Tensor, classes: Tensor) -> Tensor:
        value: Tensor = graph.network.loss(  # type: ignore[operator]
            graph.standardise.planes(images), classes
        )
        return value

    def score(graph: ClassifierGraph) -> tuple[float, str]:
        return summarise(judge(graph, held))

    draw = drawing.batches(plan.batch // place.world, place)
    return fit(
        graph, draw, loss, score, plan, place=place, folder=folder, purpose=purpose
    )


def standardise(clips: Clips) -> Standardise:
    """Standardisation by the channel means and deviations of these clips."""
    sample = clips.pixels[:: max(1, len(clips.pixels) // _SAMPLE), 0]
    values = sample.reshape(-1, 3) / 255
    return Standardise(tuple(values.mean(0).tolist()), tuple(values.std(0).tolist()))


def some_of_each(clips: Clips, number: Callable[[int], int], seed: int = 0) -> Clips:
    """Draw clips of each class; `number` says how many of so many."""
    random, classes = np.random.default_rng(seed), clips.classes.max(axis=1)
    own = [np.flatnonzero(classes == k) for k in np.unique(classes)]
    kept = [random.permutation(places)[: number(len(places))] for places in own]
    return clips.pick(np.sort(np.concatenate(kept)))


def predict(
    engine: Engine, pixels: NDArray[np.uint8], state_size: int | None = None
) -> NDArray[np.float32]:
    """Logits (N, K) of crops (N, S, S, 3) uint8, each seen for the first time."""
    clips = pixels[:, None]
    return predict_clips(engine, clips, state_size)[:, 0]


def predict_clips(
    engine: Engine, pixels: NDArray[np.uint8], state_size: int | None
) -> NDArray[np.float32]:
    """Logits (N, T, K) of clips (N, T, S, S, 3) uint8, frame after frame."""
    parts = []
    for start in range(0, len(pixels), _BATCH):
        part = pixels[start : start + _BATCH]
        state = None
        if state_size is not None:
            state = np.zeros((len(part), state_size), np.float32)
        predicted = []
        for frame in np.moveaxis(part, 1, 0):
            outputs = engine.infer(frame, state)
            state = outputs.next_state
            predicted.append(outputs.tensors["logits"])
        parts.append(np.stack(predicted, 1))
    return np.concatenate(parts)


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What was said of clips, or of their frames where the truth changes.

    `logits` (M, K), `classes` (M,); `clip` (M,) the clip of each; `clips` all of them.
    """

    logits: NDArray[np.float32]
    classes: NDArray[np.int64]
    clip: NDArray[np.int64]
    clips: Clips

    def of_rows(self, attribute: str) -> NDArray[np.str_]:
        """Return an attribute of the row behind each verdict, such as its domain."""
        values = np.array([str(getattr(r, attribute)) for r in self.clips.rows])
        return values[self.clip]


def judge(graph: ClassifierGraph, clips: Clips) -> Predictions:
    """Let a graph say what is on clips."""
    state_size = graph.state_size if isinstance(graph, SequenceGraph) else None
    return predictions_of(
        predict_clips(TorchEngine(graph), clips.pixels, state_size),
        clips,
        has_memory=state_size is not None,
    )


def predictions_of(
    logits: NDArray[np.float32], clips: Clips, *, has_memory: bool
) -> Predictions:
    """Turn what was said of each frame (N, T, K) into verdicts.

    Where the class of a clip changes, each frame has its verdict. Else each clip has
    one: a model with a memory is asked at the last frame, one without a memory says
    the mean of its log-probabilities over all frames.
    """
    valid = clips.classes != ENDED
    if (valid & (clips.classes != clips.classes[:, :1])).any():
        number, frame = np.nonzero(valid)
        return Predictions(
            logits[number, frame], clips.classes[number, frame], number, clips
        )
    each = np.arange(len(logits))
    if has_memory:
        predicted = logits[each, clips.lengths - 1]
    else:
        certain = logits - np.logaddexp.reduce(logits, axis=2, keepdims=True)
        predicted = (certain * valid[..., None]).sum(1) / clips.lengths[:, None]
    return Predictions(predicted.astype(np.float32), clips.classes[:, 0], each, clips)


def summarise(predicted: Predictions) -> tuple[float, str]:
    """Balanced accuracy, averaged over domains, and a line that shows each domain.

    Classes of which a domain holds fewer than five cells are left out there.
    """
    by_domain = balanced_by_domain(predicted)
    line = "  ".join(f"{name} {value:.4f}" for name, value in by_domain.items())
    return float(np.mean(list(by_domain.values()))), f"balanced accuracy: {line}"


def balanced_by_domain(
    predicted: Predictions, fewest: int = _FEWEST
) -> Mapping[str, float]:
    """Balanced accuracy in each domain, of classes with at least `fewest` cells."""
    domains, named = predicted.of_rows("domain"), predicted.logits.argmax(axis=1)
    balanced = {}
    for domain in sorted(set(domains.tolist())):
        here = domains == domain
        kinds, counts = np.unique(predicted.classes[here], return_counts=True)
        many = here & np.isin(
            predicted.classes, kinds[counts >= min(fewest, counts.max())]
        )
        balanced[domain] = balanced_accuracy(named[many], predicted.classes[many])
    return balanced


def _weights(clips: Clips) -> NDArray[np.float64]:
    """Draw rare pairs of class and domain more often, by the square root of rarity."""
    pairs = [
        (int(k), row.domain)
        for k, row in zip(clips.classes.max(axis=1), clips.rows, strict=True)
    ]
    number = {pair: pairs.count(pair) for pair in set(pairs)}
    return np.array([number[pair] ** -0.5 for pair in pairs])
