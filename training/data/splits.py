"""Divide cells into train, val and test: by whole groups, never by parts of one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from training.choices import SPLITS
from training.data.rows import DataInvalid, Row

Shares = tuple[float, float, float]
_MAX_SHOWN = 20


def split_by_group(
    rows: Iterable[Row], shares: Shares = (0.7, 0.15, 0.15), seed: int = 0
) -> list[Row]:
    """Give every row a split, without cutting a group.

    Parameters
    ----------
    rows
        Rows of any split; it is replaced.
    shares
        Of train, val and test, in every class.
    seed
        The same seed and groups give the same split, whatever the order of the rows.

    Returns
    -------
    list[Row]
        In the given order. A class of three groups or more is in every split, unless
        the other classes of its groups prevent it.

    Raises
    ------
    DataInvalid
        The shares are not three positive numbers with the sum 1.

    Notes
    -----
    Greedy: first each class, the rarest first, gets a group in every split. Then each
    other group, the largest first, goes where it brings the shares of the classes
    closest to those wanted.
    """
    if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise DataInvalid(f"shares are {shares}, expected above 0 with the sum 1")
    rows = list(rows)
    names = sorted(
        {row.group for row in rows}, key=lambda name: _random_key(seed, name)
    )
    content = _content(rows, names)
    names = [names[i] for i in np.argsort(-content.sum(axis=1), kind="stable")]
    part = _assign(_content(rows, names), np.array(shares))
    chosen = {name: SPLITS[k] for name, k in zip(names, part, strict=True)}
    return [replace(row, split=chosen[row.group]) for row in rows]


def _random_key(seed: int, group: str) -> str:
    """Return a key that puts groups in an order that depends on the seed alone."""
    return hashlib.sha256(f"{seed}:{group}".encode()).hexdigest()


def _content(rows: Sequence[Row], groups: Sequence[str]) -> NDArray[np.float64]:
    """Share (G, K) of the rows of each class that each group holds."""
    index = {name: i for i, name in enumerate(groups)}
    labels = {label: k for k, label in enumerate(sorted({row.label for row in rows}))}
    content = np.zeros((len(groups), len(labels)))
    for row in rows:
        content[index[row.group], labels[row.label]] += 1
    content /= content.sum(axis=0)
    return content


def _assign(content: NDArray[np.float64], shares: NDArray[np.float64]) -> list[int]:
    """Choose a split, 0 to 2, for each group; the groups come the largest first.

    `content` (G, K) is what each holds of the classes, `shares` (3,) what is wanted.
    """
    filled = np.zeros((len(shares), content.shape[1]))
    part = [-1] * len(content)

    def cost(group: int, split: int) -> float:
        """Increase of the chi-square distance from the wanted shares."""
        before = filled[split] - shares[split]
        after = before + content[group]
        return float((after**2 - before**2).sum() / shares[split])

    def give(group: int, split: int) -> None:
        part[group] = split
        filled[split] += content[group]

    groups_of = (content > 0).sum(axis=0)
    for k in np.argsort(groups_of, kind="stable"):
        for split in range(len(shares)) if groups_of[k] >= len(shares) else ():
            free = [g for g in np.flatnonzero(content[:, k]).tolist() if part[g] < 0]
            if free and not filled[split, k]:
                give(min(free, key=lambda group: cost(group, split)), split)
    for group in range(len(content)):
        if part[group] < 0:
            give(group, min(range(len(shares)), key=lambda split: cost(group, split)))
    return part


def mend_cut_groups(rows: Iterable[Row]) -> tuple[list[Row], list[str]]:
    """Put a group that lies in `train` and `val` wholly into `train`, with a note.

    Returns
    -------
    tuple[list[Row], list[str]]
        The rows in their order, and a note for each such group.

    Raises
    ------
    DataInvalid
        A group lies in `test` and in another split, so that the test would not be
        independent. Names each such group with a row of either split.
    """
    rows = list(rows)
    first: dict[str, dict[str, Row]] = {}
    for row in rows:
        first.setdefault(row.group, {}).setdefault(row.split, row)
    cut = {name: parts for name, parts in first.items() if len(parts) > 1}
    listed = {
        name: f"group {name!r} is in "
        + " and ".join(f"{split} ({row.where})" for split, row in parts.items())
        for name, parts in cut.items()
    }
    leaking = [listed[name] for name, parts in cut.items() if "test" in parts]
    if leaking:
        shown = "\n".join(leaking[:_MAX_SHOWN])
        raise DataInvalid(
            f"{len(leaking)} groups lie in test and elsewhere, put each into one "
            f"split:\n{shown}"
        )
    whole = [replace(r, split="train") if r.group in cut else r for r in rows]
    return whole, [f"{text}; all of it is used as train" for text in listed.values()]
