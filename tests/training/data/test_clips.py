from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from training.data.clips import ENDED, Clips, film_strip, read_clips
from training.data.rows import DataInvalid, Row

LEVELS = (10, 60, 110, 160, 210)


def strip_of(path: Path, levels: tuple[int, ...], frames: int | None = None) -> Row:
    """Write a strip of plain 8x8 frames; its blue is its brightness, its red is 0."""
    strip = np.zeros((8, 8 * len(levels), 3), np.uint8)
    strip[..., 0] = np.repeat(levels, 8)  # BGR
    cv2.imwrite(str(path), strip)
    return Row(
        path=path,
        licence="MIT",
        split="train",
        label="flipping",
        box=None,
        task="timelapse",
        domain="flow",
        group="sample",
        is_complete=True,
        where="manifest.csv:7",
        index=None,
        frames=len(levels) if frames is None else frames,
    )


def blue(clips: Clips) -> list[list[int]]:
    assert (clips.pixels[..., 0] == 0).all()  # red
    values: NDArray[np.uint8] = clips.pixels[..., 2]
    assert (values == values[..., :1, :1]).all()  # no frame shows its neighbour
    found: list[list[int]] = values[:, :, 0, 0].tolist()
    return found


def test_a_strip_is_read_frame_by_frame(tmp_path: Path) -> None:
    row = strip_of(tmp_path / "a.png", LEVELS)

    clips = read_clips([(row, 1)], size_px=20, frames=5)

    assert clips.pixels.shape == (1, 5, 20, 20, 3)
    assert clips.pixels.dtype == np.uint8
    assert clips.classes.dtype == np.int64
    assert blue(clips) == [list(LEVELS)]
    assert clips.classes.tolist() == [[1] * 5]
    assert clips.rows == (row,)


def test_a_long_clip_is_cut_and_a_short_one_repeats_its_last_frame(
    tmp_path: Path,
) -> None:
    long = strip_of(tmp_path / "a.png", LEVELS)
    short = strip_of(tmp_path / "b.png", LEVELS[:2])

    clips = read_clips([(long, 0), (short, 2)], size_px=8, frames=4)

    assert blue(clips) == [[10, 60, 110, 160], [10, 60, 60, 60]]
    assert clips.classes.tolist() == [[0] * 4, [2, 2, ENDED, ENDED]]
    assert clips.lengths.tolist() == [4, 2]


def test_an_image_of_one_frame_is_a_clip_of_one_frame(tmp_path: Path) -> None:
    row = strip_of(tmp_path / "a.png", (80,))

    clips = read_clips([(row, 0)], size_px=8, frames=3)

    assert blue(clips) == [[80, 80, 80]]
    assert clips.lengths.tolist() == [1]


def test_frames_that_are_not_square_do_not_show_their_neighbours(
    tmp_path: Path,
) -> None:
    row = strip_of(tmp_path / "a.png", (10, 10, 200, 200), frames=2)  # 16x8 each
    narrow = strip_of(tmp_path / "b.png", (90, 140), frames=4)  # 4x8 each

    clips = read_clips([(row, 0), (narrow, 0)], size_px=16, frames=4)

    assert blue(clips) == [[10, 200, 200, 200], [90, 90, 140, 140]]


@pytest.mark.parametrize("frames", [0, -1, 3])
def test_a_strip_that_does_not_hold_its_frames_is_named(
    tmp_path: Path, frames: int
) -> None:
    row = strip_of(tmp_path / "a.png", LEVELS, frames)

    with pytest.raises(
        DataInvalid, match=rf"manifest.csv:7: a.png is 40 px .* n_frames {frames};"
    ):
        read_clips([(row, 0)], size_px=8, frames=4)


def test_a_damaged_strip_is_named(tmp_path: Path) -> None:
    row = strip_of(tmp_path / "a.png", LEVELS)
    row.path.write_bytes(row.path.read_bytes()[:-20])

    with pytest.raises(DataInvalid, match=r"manifest.csv:7: .*a.png"):
        read_clips([(row, 0)], size_px=8, frames=4)


def test_no_strips_are_no_clips() -> None:
    clips = read_clips([], size_px=8, frames=4)

    assert clips.pixels.shape == (0, 4, 8, 8, 3)
    assert clips.lengths.shape == (0,)


def test_the_film_strip_marks_each_class_and_leaves_ended_frames_blank(
    tmp_path: Path,
) -> None:
    long = strip_of(tmp_path / "a.png", LEVELS)
    short = strip_of(tmp_path / "b.png", LEVELS[:3])
    clips = read_clips([(long, 0), (short, 1)], size_px=32, frames=5)

    picture = film_strip(clips, every=2, names=("steady", "lysis"))

    below_legend = picture[-2 * 41 :, : 3 * 34].reshape(2, 41, 3, 34, 3)
    bars = below_legend[:, 35, :, 10]
    np.testing.assert_array_equal(bars[0], [bars[0, 0]] * 3)
    np.testing.assert_array_equal(bars[1, :2], [bars[1, 0]] * 2)
    assert (bars[0, 0] != bars[1, 0]).any()
    assert (below_legend[1, :, 2] == 255).all()
    assert below_legend[0, 5, 2, 5].tolist() == [0, 0, LEVELS[4]]
