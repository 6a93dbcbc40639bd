"""Train a classifier of cells, whatever its family, and predict with it.

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
from training.fitting.device import SINGLE_CPU, TrainingDevice
from training.fitting.loop import FitPlan, Fitted, fit
from training.fitting.model_graphs import (
    ClassifierGraph,
    SequenceGraph,
    Standardise,
    TorchEngine,
)
from training.metrics.bootstrap import balanced_accuracy

_STOCK_DETAIL = 1.1  # pixels of stock crops over those of the crops they become
_MIN_CELLS = 5  # of a class in a domain, for it to count in the choice of an epoch
_SAMPLE = 2000  # crops that the standardisation is measured on
_BATCH = 256


def stock_px(size_px: int, context: float) -> int:
    """Side in pixels of stock crops, from which crops of `size_px` are drawn.

    `context` is what those show: the side of their window over that of the cell's box.
    """
    return round(_STOCK_DETAIL * size_px * STOCK_CONTEXT / context)


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

    A recurrent model is shown `frames` frames of a crop that does not move: the same
    crop, each time with the blur, noise and light of another moment. Of a longer clip
    it is shown `window` frames, from anywhere in it, so that more clips fit into a
    batch.
    """

    stock: Clips
    size_px: int
    view: WindowJitter
    jitter: Jitter
    frames: int = 1
    window: int | None = None

    def batches(
        self, size: int, device: TrainingDevice = SINGLE_CPU
    ) -> Callable[[int], tuple[Tensor, Tensor]]:
        """Return a function that draws clips of `size` images in all, with classes.

        Images (N, T, 3, S, S) float32, 0 to 255, and classes (N, T) int64; where T is
        1 that axis is left out. Rare classes are drawn more often, see `_weights`.
        """
        longest = self.stock.pixels.shape[1]
        frames = max(self.frames, min(longest, self.window or longest))
        clips = max(1, size // frames)
        weights = torch.from_numpy(_weights(self.stock))
        images = torch.from_numpy(self.stock.pixels)
        classes = torch.from_numpy(self.stock.classes)
        lengths = torch.from_numpy(self.stock.lengths)

        def draw(_seed: int) -> tuple[Tensor, Tensor]:
            chosen = torch.multinomial(weights, clips, replacement=True)
            starts = (lengths[chosen] - frames + 1).clamp(min=1)
            start = (torch.rand(clips) * starts).long()
            shown = start[:, None] + torch.arange(min(frames, longest))
            crops = images[chosen[:, None], shown]
            crops = crops.to(device.torch_device).movedim(-1, 2).float()
            return self._changed(crops, classes[chosen[:, None], shown], frames)

        return draw

    def _changed(
        self, crops: Tensor, classes: Tensor, frames: int
    ) -> tuple[Tensor, Tensor]:
        """Change view and colour of clips (N, T, 3, P, P) with classes (N, T).

        Where T is less than `frames` the cell does not move; it is shown that often,
        each time at another moment.
        """
        is_still = crops.shape[1] < frames
        if is_still:
            crops = crops.expand(-1, frames, -1, -1, -1)
            classes = classes.expand(-1, frames)
        images = draw_views(
            crops.flatten(0, 1), self.view, self.size_px, frames, is_shaken=is_still
        )
        images = jitter_colour(images, self.jitter, frames)
        if is_still:
            images = jitter_colour(images, MOMENT)
        if frames == 1:
            return images, classes[:, 0]
        return images.reshape(len(crops), frames, *images.shape[1:]), classes


def train_classifier(
    graph: ClassifierGraph,
    sampling: BatchSampling,
    val: Clips,
    plan: FitPlan,
    *,
    device: TrainingDevice = SINGLE_CPU,
    folder: Path | None = None,
    purpose: str = "",
) -> Fitted[ClassifierGraph]:
    """Fit a graph to labelled cells.

    Parameters
    ----------
    graph
        Its network has `loss(x, classes)`.
    sampling
        What it is shown.
    val
        Cells of `val`, cut as the device cuts them; they choose the best epoch.
    plan, device, folder, purpose
        See `training.fitting.loop.fit`.

    Raises
    ------
    FitDiverged, CheckpointRefused
        See `training.fitting.loop.fit`.
    """

    def loss(graph: ClassifierGraph, images: Tensor, classes: Tensor) -> Tensor:
        value: Tensor = graph.network.loss(  # type: ignore[operator]
            graph.standardise.planes(images), classes
        )
        return value

    def score(graph: ClassifierGraph) -> tuple[float, str]:
        return summarise(evaluate(graph, val))

    draw = sampling.batches(plan.batch // device.world, device)
    return fit(
        graph, draw, loss, score, plan, device=device, folder=folder, purpose=purpose
    )


def standardise(clips: Clips) -> Standardise:
    """Return the standardisation by the channel means and deviations of clips."""
    sample = clips.pixels[:: max(1, len(clips.pixels) // _SAMPLE), 0]
    values = sample.reshape(-1, 3) / 255
    return Standardise(tuple(values.mean(0).tolist()), tuple(values.std(0).tolist()))


def some_of_each(clips: Clips, number: Callable[[int], int], seed: int = 0) -> Clips:
    """Draw clips of each class at random, in the order they came.

    `number` is given how many clips a class has and returns how many are drawn.
    """
    random, classes = np.random.default_rng(seed), clips.classes.max(axis=1)
    by_class = [np.flatnonzero(classes == k) for k in np.unique(classes)]
    kept = [random.permutation(own)[: number(len(own))] for own in by_class]
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
    """Predictions for clips, or for their frames where the true class changes.

    `logits` (M, K) float32 and the true `classes` (M,) int64; `clip` (M,) int64 is the
    index of each in `clips`.
    """

    logits: NDArray[np.float32]
    classes: NDArray[np.int64]
    clip: NDArray[np.int64]
    clips: Clips

    def of_rows(self, attribute: str) -> NDArray[np.str_]:
        """Return an attribute of each prediction's row (M,), such as its domain."""
        values = np.array([str(getattr(r, attribute)) for r in self.clips.rows])
        return values[self.clip]


def evaluate(graph: ClassifierGraph, clips: Clips) -> Predictions:
    """Predict the class of clips, or of their frames, with a graph."""
    state_size = graph.state_size if isinstance(graph, SequenceGraph) else None
    return predictions_of(
        predict_clips(TorchEngine(graph), clips.pixels, state_size),
        clips,
        has_memory=state_size is not None,
    )


def predictions_of(
    logits: NDArray[np.float32], clips: Clips, *, has_memory: bool
) -> Predictions:
    """Turn the logits of every frame (N, T, K) into predictions.

    Where the class of a clip changes, each frame has its own prediction. Else each clip
    has one: for a model with a memory the logits of the last frame, for one without the
    mean of its log-probabilities over all frames.
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
    """Return the balanced accuracy, averaged over domains, and a line that shows each.

    Classes of which a domain holds fewer than five cells are left out there.
    """
    by_domain = balanced_by_domain(predicted)
    line = "  ".join(f"{name} {value:.4f}" for name, value in by_domain.items())
    return float(np.mean(list(by_domain.values()))), f"balanced accuracy: {line}"


def balanced_by_domain(
    predicted: Predictions, min_cells: int = _MIN_CELLS
) -> Mapping[str, float]:
    """Balanced accuracy in each domain, of classes with at least `min_cells`."""
    domains, named = predicted.of_rows("domain"), predicted.logits.argmax(axis=1)
    balanced = {}
    for domain in sorted(set(domains.tolist())):
        here = domains == domain
        kinds, counts = np.unique(predicted.classes[here], return_counts=True)
        many = here & np.isin(
            predicted.classes, kinds[counts >= min(min_cells, counts.max())]
        )
        balanced[domain] = balanced_accuracy(named[many], predicted.classes[many])
    return balanced


def _weights(clips: Clips) -> NDArray[np.float64]:
    """Weights (N,) by which clips are drawn.

    A clip weighs 1 / sqrt(n) where n clips have its class and domain, so rare pairs are
    drawn more often, but less often than as if all pairs were equally frequent.
    """
    pairs = [
        (int(k), row.domain)
        for k, row in zip(clips.classes.max(axis=1), clips.rows, strict=True)
    ]
    counts = {pair: pairs.count(pair) for pair in set(pairs)}
    return np.array([counts[pair] ** -0.5 for pair in pairs])
