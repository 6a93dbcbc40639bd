"""Choose the crops that the ranges of int8 are measured on, and list them.

Eight bits can only express numbers inside the measured ranges. Random pixels would give
meaningless ranges, so only real crops are taken: equally many of each class and
laboratory, ordered by the hash of their pixels, so that the same cells always give the
same choice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from calibration.choices import MIN_CROPS
from edge.errors import HemascopeError

_GRAIN = 12.0  # grey levels, standard deviation: an empty field has no more
_MIN_CORRELATION = 0.5  # of neighbouring pixels of a real image
_MAX_NOISE_SHARE = 0.05


class CropsRefused(HemascopeError):
    """The crops are too few, or they are not images of cells."""


class ChosenCrop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One crop: where it came from, its stratum, and the sha256 of its pixels."""

    where: str
    label: str
    domain: str
    sha256: str


class Int8Crops(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`int8-crops.json` of a bundle: what the ranges were measured on."""

    format: int = 1
    sha256: str
    crops: tuple[ChosenCrop, ...]


def choose_crops(
    pixels: NDArray[np.uint8],
    where: Sequence[str],
    labels: Sequence[str],
    domains: Sequence[str],
    count: int,
) -> tuple[NDArray[np.intp], Int8Crops]:
    """Choose crops for the measurement of ranges.

    Parameters
    ----------
    pixels
        (N, S, S, 3) uint8 RGB, cut as the device cuts them, of cells that are trained
        on: none of `val` or `test`.
    where, labels, domains
        Of each crop: its row, class and laboratory.
    count
        How many; each pair of class and laboratory gives the same number until it has
        no more.

    Returns
    -------
    tuple
        Indices (M,) of the chosen crops, and the list of them with hashes.

    Raises
    ------
    CropsRefused
        There are fewer than 64 different crops, or they look like noise.
    """
    digests = [hashlib.sha256(crop.tobytes()).hexdigest() for crop in pixels]
    index_of = {digest: index for index, digest in reversed([*enumerate(digests)])}
    _refuse_few(len(index_of), count)
    strata: dict[tuple[str, str], list[str]] = {}
    for digest in sorted(index_of):
        index = index_of[digest]
        strata.setdefault((labels[index], domains[index]), []).append(digest)
    chosen = _drawn_evenly(strata, min(count, len(index_of)))
    indices = np.array([index_of[digest] for digest in chosen])
    refuse_noise(pixels[indices])
    crops = tuple(
        ChosenCrop(where[i], labels[i], domains[i], digests[i]) for i in indices
    )
    whole = hashlib.sha256("".join(chosen).encode()).hexdigest()
    return indices, Int8Crops(sha256=whole, crops=crops)


def _refuse_few(different: int, count: int) -> None:
    """Refuse a choice of too few crops, or from too few.

    Raises
    ------
    CropsRefused
        Fewer than 64 are wanted, or fewer than 64 different ones are there.
    """
    if count < MIN_CROPS:
        raise CropsRefused(f"{count} crops asked for, expected at least {MIN_CROPS}")
    if different < MIN_CROPS:
        raise CropsRefused(
            f"{different} different crops, expected at least {MIN_CROPS} real ones; "
            "name more data"
        )


def _drawn_evenly(strata: dict[tuple[str, str], list[str]], count: int) -> list[str]:
    """Take one hash of each stratum in turn, until there are `count`."""
    chosen: list[str] = []
    depth = 0
    while len(chosen) < count:
        layer = [
            strata[key][depth] for key in sorted(strata) if depth < len(strata[key])
        ]
        chosen += layer[: count - len(chosen)]
        depth += 1
    return chosen


def refuse_noise(pixels: NDArray[np.uint8]) -> None:
    """Refuse crops (N, S, S, 3) uint8 of which many are noise and not images.

    In an image neighbouring pixels are alike; in random numbers they are not. A crop
    that shows little but grain, as an empty field does, is accepted.

    Raises
    ------
    CropsRefused
        More than one crop in twenty has neighbouring pixels that are not alike.
    """
    grey = pixels.astype(np.float64).mean(axis=3)
    left = grey[:, :, :-1].reshape(len(grey), -1)
    right = grey[:, :, 1:].reshape(len(grey), -1)
    left = left - left.mean(1, keepdims=True)
    right = right - right.mean(1, keepdims=True)
    spread = np.sqrt((left**2).mean(1) * (right**2).mean(1))
    correlation = (left * right).mean(1) / np.maximum(spread, 1e-9)
    is_noise = (spread > _GRAIN**2) & (correlation < _MIN_CORRELATION)
    if is_noise.mean() > _MAX_NOISE_SHARE:
        raise CropsRefused(
            f"{is_noise.mean():.0%} of the crops look like noise (correlation of "
            f"neighbouring pixels {np.median(correlation):.2f}, expected above "
            f"{_MIN_CORRELATION}); ranges are measured on real cells only"
        )
