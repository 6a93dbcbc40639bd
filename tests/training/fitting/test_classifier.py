"""Batches that are drawn from clips, and predictions that are evaluated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.data.clips import ENDED, Clips
from training.data.rows import Row
from training.fitting.augmentation import BOXED, STOCK_CONTEXT, Jitter, WindowJitter
from training.fitting.classifier import (
    BatchSampling,
    as_frames,
    balanced_by_domain,
    predict_clips,
    predictions_of,
    some_of_each,
    stock_px,
)
from training.fitting.model_graphs import SequenceGraph, Standardise, TorchEngine
from training.models.rnn import RecurrentCNN

ROW = Row(Path("a.png"), "MIT", "train", "RBC", None, "cells4", "home", "g", True)
STILL = Jitter(0, 0, 0, 0, 0, 0, 0, is_compressed=False)
SAME = WindowJitter(1.0, 1.0, 0.0)


def clips(classes: list[list[int]], domains: list[str] | None = None) -> Clips:
    """Clips whose frame t is of grey level 10 t."""
    named = np.array(classes)
    pixels = np.zeros((*named.shape, 8, 8, 3), np.uint8)
    pixels += (10 * np.arange(named.shape[1], dtype=np.uint8))[
        None, :, None, None, None
    ]
    rows = [replace(ROW, domain=d) for d in domains or ["home"] * len(named)]
    return Clips(pixels, named, tuple(rows))


def test_a_still_crop_is_drawn_alone_or_seen_several_times() -> None:
    stock = clips([[0], [1]])

    images, classes = BatchSampling(stock, 8, SAME, STILL).batches(6)(0)
    seen, each = BatchSampling(stock, 8, SAME, STILL, frames=3).batches(6)(0)

    assert images.shape == (6, 3, 8, 8)
    assert classes.shape == (6,)
    assert seen.shape == (2, 3, 3, 8, 8)  # six images in all
    assert each.shape == (2, 3)


def test_a_window_lies_inside_its_clip() -> None:
    stock = clips([[0] * 10, [1] * 4 + [ENDED] * 6])
    torch.manual_seed(0)

    images, classes = BatchSampling(stock, 8, SAME, STILL, window=4).batches(800)(0)

    assert images.shape == (200, 4, 3, 8, 8)
    frame = (images.mean((2, 3, 4)) / 10).round().long()
    assert (frame.diff(dim=1) == 1).all()
    assert set(frame[classes[:, 0] == 0][:, 0].tolist()) == set(range(7))
    assert set(frame[classes[:, 0] == 1][:, 0].tolist()) == {0}
    assert (classes == classes[:, :1]).all()


def test_rare_classes_and_laboratories_are_drawn_more_often_than_they_occur() -> None:
    stock = clips([[0]] * 90 + [[1]] * 10)
    torch.manual_seed(0)

    _, classes = BatchSampling(stock, 8, SAME, STILL).batches(4000)(0)

    assert classes.float().mean() == pytest.approx(0.25, abs=0.03)  # by the square root


def test_every_frame_becomes_a_clip_for_models_without_a_memory() -> None:
    frames = as_frames(clips([[0, 0, ENDED], [1, 2, 2]]))

    assert frames.classes.ravel().tolist() == [0, 0, 1, 2, 2]
    assert frames.pixels[:, 0, 0, 0, 0].tolist() == [0, 10, 0, 10, 20]


def test_a_clip_of_one_class_has_one_verdict() -> None:
    of = clips([[0, 0, 0], [1, 1, ENDED]])
    logits = np.zeros((2, 3, 2), np.float32)
    logits[0, :, 0] = [4, -1, -1]  # the first frame is sure, the last is not
    logits[1, :, 1] = [1, 3, -9]  # what comes after the end does not count

    at_last = predictions_of(logits, of, has_memory=True)
    mean = predictions_of(logits, of, has_memory=False)

    np.testing.assert_array_equal(at_last.logits, logits[[0, 1], [2, 1]])
    assert mean.logits.argmax(axis=1).tolist() == [0, 1]
    assert at_last.classes.tolist() == mean.classes.tolist() == [0, 1]


def test_where_the_class_changes_every_frame_has_its_verdict() -> None:
    of = clips([[0, 0, 1], [0, ENDED, ENDED]])

    predicted = predictions_of(np.zeros((2, 3, 2), np.float32), of, has_memory=True)

    assert predicted.classes.tolist() == [0, 0, 1, 0]
    assert predicted.clip.tolist() == [0, 0, 0, 1]


def test_state_is_carried_through_a_clip_and_no_further() -> None:
    torch.manual_seed(0)
    network = RecurrentCNN(2, width=0.25, memory=8)
    graph = SequenceGraph(Standardise((0.5,) * 3, (0.2,) * 3), network)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 255, (3, 4, 16, 16, 3)).astype(np.uint8)

    together = predict_clips(TorchEngine(graph), pixels, 8)
    alone = predict_clips(TorchEngine(graph), pixels[1:2], 8)
    forgotten = predict_clips(TorchEngine(graph), pixels[1:2, 3:], 8)

    np.testing.assert_allclose(together[1], alone[0], atol=1e-5)
    assert np.abs(together[1, 3] - forgotten[0, 0]).max() > 1e-4


def test_a_single_platelet_does_not_choose_the_epoch() -> None:
    of = clips([[0]] * 10 + [[1]], ["raabin"] * 11)
    logits = np.tile([[1.0, 0.0]], (11, 1)).astype(np.float32)[:, None]

    predicted = predictions_of(logits, of, has_memory=False)

    assert balanced_by_domain(predicted) == {"raabin": 1.0}
    assert balanced_by_domain(predicted, min_cells=1) == {"raabin": 0.5}


def test_some_of_each_class_are_drawn_the_same_every_time() -> None:
    of = clips([[0]] * 50 + [[1]] * 4)

    few = some_of_each(of, lambda n: min(n, 8))

    assert np.bincount(few.classes[:, 0]).tolist() == [8, 4]
    again = some_of_each(of, lambda n: min(n, 8))
    np.testing.assert_array_equal(few.classes, again.classes)


def test_a_drawn_view_of_a_box_shows_at_least_the_cell() -> None:
    assert STOCK_CONTEXT * BOXED.min_side == pytest.approx(1.0)
    assert BOXED.max_side == 1.0


def test_what_the_device_shows_has_its_pixels_in_the_stock() -> None:
    for size_px, context in ((80, 2.0), (32, 1.25), (64, 3.0)):
        shown = stock_px(size_px, context) * context / STOCK_CONTEXT
        assert shown >= size_px
