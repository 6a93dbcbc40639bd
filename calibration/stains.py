"""Stain normalisation by published methods, for all images of a slide at once.

For comparison, and for archives of images. Not for live use: such statistics depend on
what is in view, so a cell would change its colour while the field around it empties
(DECISIONS.md). Statistics are pooled over all images of a slide and computed from
stained pixels alone. Pixels that are not stained keep their exact values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.choices import Method
from edge.errors import HemascopeError
from edge.stages.colour_statistics import to_lab

Image = NDArray[np.uint8]
_Array = NDArray[np.float64]

_STAINED = 0.065  # optical density, base 10, of each channel: Macenko's 0.15, base e
_MIN_STAINED = 500  # pixels
_MAX_PIXELS = 60_000
_ANGLE = 1.0  # percentile of the angles at which a stain is taken
_STRONGEST = 99.0  # percentile of the amounts of a stain: its strength
_SPARSITY, _UPDATES = 0.1, 200  # of Vahadane's factorisation


class StainsRefused(HemascopeError):
    """The images show too little stain to be normalised."""


@dataclass(frozen=True, slots=True, eq=False)
class StainedPixels:
    """Stained pixels of a slide: optical density (N, 3), base 10, and CIELAB (N, 3).

    `white` (3,) is the colour of no stain, 8-bit RGB.
    """

    density: _Array
    lab: _Array
    white: _Array


def gather(images: Sequence[Image], white: _Array) -> StainedPixels:
    """Pool the stained pixels of all images (H, W, 3) uint8 RGB of a slide.

    Raises
    ------
    StainsRefused
        There are fewer than 500 of them.
    """
    stained = [np.zeros((0, 3), np.uint8), *(i[is_stained(i, white)] for i in images)]
    pixels = np.concatenate(stained)
    if len(pixels) < _MIN_STAINED:
        raise StainsRefused(
            f"{len(pixels)} stained pixels on {len(images)} images, expected at least "
            f"{_MIN_STAINED}; choose images that show cells"
        )
    every = max(1, len(pixels) // _MAX_PIXELS)
    chosen = pixels[::every]
    return StainedPixels(_density(chosen, white), to_lab(chosen), white)


def is_stained(image: Image, white: _Array) -> NDArray[np.bool_]:
    """Mask (H, W) of the pixels that are darker than `white` (3,) in all channels."""
    return np.asarray((_density(image, white) > _STAINED).all(axis=-1))


def normalise(
    image: Image, method: Method, slide: StainedPixels, reference: StainedPixels
) -> Image:
    """Make an image of `slide` look like `reference`.

    Parameters
    ----------
    image
        (H, W, 3) uint8 RGB.
    method
        Reinhard et al. 2001 in CIELAB, Macenko et al. 2009, Vahadane et al. 2016.
    slide, reference
        Statistics of the whole slides.

    Returns
    -------
    NDArray[np.uint8]
        (H, W, 3) RGB.
    """
    mask = is_stained(image, slide.white)
    out: Image = image.copy()
    if not mask.any():
        return out
    if method == "reinhard":
        lab = to_lab(image[mask])
        out[mask] = _to_rgb(_matched(lab, slide.lab, reference.lab)[None])[0]
        return out
    map_to = stain_map(method, slide, reference)
    mapped = _density(image[mask], slide.white) @ map_to.T
    out[mask] = np.clip(np.rint(reference.white * 10**-mapped), 0, 255)
    return out


def stain_map(method: Method, slide: StainedPixels, reference: StainedPixels) -> _Array:
    """Map (3, 3) of optical densities that replaces each stain by the reference's.

    With the stains of both slides as columns of A and B, and D the ratio of their
    strengths, it is B D pinv(A) + I - A pinv(A): what is no mixture of the two stains
    stays as it is.
    """
    find = macenko_stains if method == "macenko" else vahadane_stains
    ours, theirs = find(slide.density), find(reference.density)
    strength = _strongest(reference.density, theirs) / _strongest(slide.density, ours)
    back = np.linalg.pinv(ours)
    return np.asarray(theirs @ np.diag(strength) @ back + np.eye(3) - ours @ back)


def macenko_stains(density: _Array) -> _Array:
    """Find unit vectors (3, 2) of two stains in densities (N, 3), base 10.

    Macenko et al., ISBI 2009: in the plane of the two main components, the stains are
    the directions of the smallest and the largest angle. The one that is denser in red
    comes first.
    """
    _, vectors = np.linalg.eigh(np.cov(density.T))
    plane = vectors[:, [2, 1]]
    plane = plane * np.where(plane.sum(axis=0) < 0, -1.0, 1.0)
    flat = density @ plane
    angle = np.arctan2(flat[:, 1], flat[:, 0])
    extremes = np.percentile(angle, [_ANGLE, 100 - _ANGLE])
    stains = plane @ np.stack([np.cos(extremes), np.sin(extremes)])
    return _ordered(stains)


def vahadane_stains(density: _Array) -> _Array:
    """Find unit vectors (3, 2) of two stains by sparse non-negative factorisation.

    Vahadane et al., IEEE TMI 2016, solved by multiplicative updates (Hoyer 2002) that
    start from Macenko's stains. `density` (N, 3), base 10.
    """
    target = np.maximum(density, 1e-6).T
    stains = np.maximum(macenko_stains(density), 0.02)
    stains /= np.linalg.norm(stains, axis=0)
    amount = np.maximum(np.linalg.pinv(stains) @ target, 1e-3)
    for _ in range(_UPDATES):
        amount *= (stains.T @ target) / (stains.T @ stains @ amount + _SPARSITY)
        stains *= (target @ amount.T) / (stains @ amount @ amount.T + 1e-12)
        size = np.linalg.norm(stains, axis=0)
        stains, amount = stains / size, amount * size[:, None]
    return _ordered(stains)


def _ordered(stains: _Array) -> _Array:
    """Put the stain (3,) that is denser in red first."""
    return np.asarray(stains[:, np.argsort(-stains[0])])


def _strongest(density: _Array, stains: _Array) -> _Array:
    """Strength (2,) of each stain (3, 2) in densities (N, 3)."""
    amounts = density @ np.linalg.pinv(stains).T
    return np.asarray(np.maximum(np.percentile(amounts, _STRONGEST, axis=0), 1e-3))


def _matched(lab: _Array, slide: _Array, reference: _Array) -> _Array:
    """Give CIELAB colours (N, 3) of a slide the mean and deviation of the reference."""
    spread = reference.std(axis=0) / np.maximum(slide.std(axis=0), 1e-6)
    return np.asarray((lab - slide.mean(axis=0)) * spread + reference.mean(axis=0))


def _density(pixels: NDArray[np.generic], white: _Array) -> _Array:
    """Optical density (..., 3), base 10, of 8-bit colours over `white` (3,)."""
    return np.asarray(-np.log10(np.maximum(pixels, 1.0) / white))


def _to_rgb(lab: _Array) -> _Array:
    """8-bit RGB (1, N, 3) of CIELAB colours (1, N, 3), float64."""
    rgb = cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_Lab2RGB)
    return np.asarray(np.clip(np.rint(rgb * 255), 0, 255), np.float64)
