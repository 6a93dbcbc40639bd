from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.choices import SPLITS
from training.data.rows import DataInvalid, Row
from training.data.splits import mend_cut_groups, split_by_group

ROW = Row(Path("a.png"), "MIT", "", "RBC", None, "cells4", "x", "g", True)


def rows_of(cells: list[tuple[int, str]]) -> list[Row]:
    return [replace(ROW, group=f"slide-{group}", label=label) for group, label in cells]


CELLS = st.lists(
    st.tuples(st.integers(0, 15), st.sampled_from(["RBC", "WBC", "Platelet"])),
    min_size=1,
    max_size=80,
)


@given(CELLS, st.integers(0, 5))
def test_no_group_is_ever_cut_and_no_row_is_lost(
    cells: list[tuple[int, str]], seed: int
) -> None:
    rows = rows_of(cells)

    given_splits = split_by_group(rows, seed=seed)

    assert mend_cut_groups(given_splits) == (given_splits, [])
    assert {row.split for row in given_splits} <= set(SPLITS)
    assert [replace(row, split="") for row in given_splits] == rows


@given(CELLS, st.integers(0, 5), st.randoms())
def test_the_same_seed_is_the_same_split_in_any_order(
    cells: list[tuple[int, str]],
    seed: int,
    random,  # type: ignore[no-untyped-def]  # noqa: ANN001
) -> None:
    rows = rows_of(cells)
    shuffled = random.sample(rows, len(rows))

    one, two = split_by_group(rows, seed=seed), split_by_group(shuffled, seed=seed)

    assert {r.group: r.split for r in one} == {r.group: r.split for r in two}


@given(
    st.dictionaries(
        st.integers(0, 30),
        st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(1, 9)),
    ),
    st.integers(0, 5),
)
def test_a_class_of_three_groups_of_its_own_is_in_every_split(
    groups: dict[int, tuple[str, int]], seed: int
) -> None:
    cells = [(g, label) for g, (label, size) in groups.items() for _ in range(size)]

    there = defaultdict(set)
    for row in split_by_group(rows_of(cells), seed=seed):
        there[row.label].add(row.split)

    for label in there:
        number = sum(other == label for other, _ in groups.values())
        assert len(there[label]) == 3 or number < 3


def test_a_rare_class_on_mixed_slides_is_in_every_split() -> None:
    common = [(group, "RBC") for group in range(30) for _ in range(20)]
    rare = [(group, "Platelet") for group in (3, 8, 21)]

    rows = split_by_group(rows_of(common + rare))

    assert {row.split for row in rows if row.label == "Platelet"} == set(SPLITS)


@pytest.mark.parametrize("shares", [(0.7, 0.15, 0.15), (0.5, 0.3, 0.2)])
def test_every_class_is_shared_out_as_asked(
    shares: tuple[float, float, float],
) -> None:
    cells = [
        (group, label)
        for group in range(100)
        for label, number in (("RBC", 10), ("WBC", group % 3), ("Platelet", 1))
        for _ in range(number)
    ]

    rows = split_by_group(rows_of(cells), shares)

    for label in ("RBC", "WBC", "Platelet"):
        of = [row.split for row in rows if row.label == label]
        for split, share in zip(SPLITS, shares, strict=True):
            assert of.count(split) / len(of) == pytest.approx(share, abs=0.03)


def test_another_seed_is_another_split() -> None:
    rows = rows_of([(group, "RBC") for group in range(40)])

    assert split_by_group(rows, seed=0) != split_by_group(rows, seed=1)


@pytest.mark.parametrize(
    "shares", [(0.7, 0.3, 0.0), (0.7, 0.7, 0.7), (1.2, -0.1, -0.1)]
)
def test_shares_that_are_none_are_refused(shares: tuple[float, float, float]) -> None:
    with pytest.raises(DataInvalid, match="shares are"):
        split_by_group([ROW], shares)


def test_a_group_in_two_splits_is_named_with_a_row_of_either() -> None:
    rows = [
        replace(ROW, split="train", where="m.csv:2"),
        replace(ROW, split="train", where="m.csv:3"),
        replace(ROW, split="test", where="m.csv:9"),
        replace(ROW, split="test", group="whole"),
    ]

    with pytest.raises(DataInvalid) as refused:
        mend_cut_groups(rows)

    assert "1 groups" in str(refused.value)
    assert "'g' is in train (m.csv:2) and test (m.csv:9)" in str(refused.value)
    assert "whole" not in str(refused.value)


def test_a_group_in_train_and_val_is_taken_whole_for_train() -> None:
    rows = [
        replace(ROW, split="train", where="m.csv:2"),
        replace(ROW, split="val", where="m.csv:3"),
        replace(ROW, split="val", group="whole"),
    ]

    mended, notes = mend_cut_groups(rows)

    assert [row.split for row in mended] == ["train", "train", "val"]
    assert len(notes) == 1
    assert "m.csv:3" in notes[0]
