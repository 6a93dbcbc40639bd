"""Which crops the ranges of int8 are measured on: data, chosen once and listed.

Ranges decide what eight bits can say. Random pixels would give ranges of nothing, so
only real crops are taken: as many of each class and laboratory as there are, drawn by
the hash of their pixels, so that the same cells always give the same choice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.errors import HemascopeError

LEAST = 64  # crops; below that a range is chance
_GRAIN = 12.0  # grey levels, standard deviation: an empty field has no more
_LIKE_NOISE = 0.5  # correlation of neighbouring pixels that real images are above
_SHARE_OF_NOISE = 0.05


class CropsRefused(HemascopeError):
    """The crops are too few, or no images of cells."""


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
        Places (M,) in the order of the list, and the list with hashes.

    Raises
    ------
    CropsRefused
        There are fewer than 64 different crops, or they look like noise.
    """
    digests = [hashlib.sha256(crop.tobytes()).hexdigest() for crop in pixels]
    different = {digest: place for place, digest in reversed([*enumerate(digests)])}
    if count < LEAST:
        raise CropsRefused(f"{count} crops asked for, expected at least {LEAST}")
    if len(different) < LEAST:
        raise CropsRefused(
            f"{len(different)} different crops, expected at least {LEAST} real ones; "
            "name more data"
        )
    strata: dict[tuple[str, str], list[str]] = {}
    for digest in sorted(different):
        place = different[digest]
        strata.setdefault((labels[place], domains[place]), []).append(digest)
    chosen: list[str] = []
    depth = 0
    while len(chosen) < min(count, len(different)):
        layer = [
            strata[key][depth] for key in sorted(strata) if depth < len(strata[key])
        ]
        chosen += layer[: count - len(chosen)]
        depth += 1
    places = np.array([different[digest] for digest in chosen])
    refuse_noise(pixels[places])
    crops = tuple(
        ChosenCrop(where[p], labels[p], domains[p], digests[p]) for p in places
    )
    whole = hashlib.sha256("".join(chosen).encode()).hexdigest()
    return places, Int8Crops(sha256=whole, crops=crops)


def refuse_noise(pixels: NDArray[np.uint8]) -> None:
    """Refuse crops (N, S, S, 3) of which many are no images.

    In an image neighbouring pixels are alike; in random numbers they are not. Where a
    crop shows nothing but grain, as an empty field, it may stay.

    Raises
    ------
    CropsRefused
        More than one crop in twenty has neighbours that are not alike.
    """
    grey = pixels.astype(np.float64).mean(axis=3)
    left = grey[:, :, :-1].reshape(len(grey), -1)
    right = grey[:, :, 1:].reshape(len(grey), -1)
    left = left - left.mean(1, keepdims=True)
    right = right - right.mean(1, keepdims=True)
    spread = np.sqrt((left**2).mean(1) * (right**2).mean(1))
    alike = (left * right).mean(1) / np.maximum(spread, 1e-9)
    is_noise = (spread > _GRAIN**2) & (alike < _LIKE_NOISE)
    if is_noise.mean() > _SHARE_OF_NOISE:
        raise CropsRefused(
            f"{is_noise.mean():.0%} of the crops look like noise (correlation of "
            f"neighbouring pixels {np.median(alike):.2f}, expected above "
            f"{_LIKE_NOISE}); ranges are measured on real cells only"
        )
