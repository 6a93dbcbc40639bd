"""Paint one stained cell as a patch of optical density.

Sizes are those of human blood: red cells 7.5 µm with the Evans-Fung thickness
(Microvasc. Res. 4:335, 1972), neutrophils 12-14 µm, eosinophils 12-15, basophils 11-13,
lymphocytes 8-11, monocytes 14-18, platelets 2-3.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Kind = Literal[
    "erythrocyte",
    "neutrophil",
    "eosinophil",
    "basophil",
    "lymphocyte",
    "monocyte",
    "platelet",
]
LEUKOCYTES: tuple[Kind, ...] = (
    "neutrophil",
    "eosinophil",
    "basophil",
    "lymphocyte",
    "monocyte",
)
Density = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Stain:
    """Optical density (natural, RGB) of each material at full strength."""

    haemoglobin: tuple[float, float, float]
    nucleus: tuple[float, float, float]
    cytoplasm: tuple[float, float, float]
    azurophil: tuple[float, float, float]
    eosin: tuple[float, float, float]
    plasma: tuple[float, float, float]


STAINS = {
    "may-grunwald-giemsa": Stain(
        haemoglobin=(0.20, 0.37, 0.33),
        nucleus=(0.95, 1.35, 0.55),
        cytoplasm=(0.30, 0.32, 0.12),
        azurophil=(0.75, 1.15, 0.45),
        eosin=(0.22, 0.80, 0.62),
        plasma=(0.01, 0.05, 0.10),
    ),
    "wright": Stain(
        haemoglobin=(0.15, 0.30, 0.29),
        nucleus=(0.60, 0.95, 0.10),
        cytoplasm=(0.13, 0.28, 0.05),
        azurophil=(0.48, 0.80, 0.12),
        eosin=(0.10, 0.55, 0.40),
        plasma=(0.02, 0.01, 0.03),
    ),
    "giemsa": Stain(
        haemoglobin=(0.48, 0.62, 0.34),
        nucleus=(0.72, 1.70, 0.62),
        cytoplasm=(0.30, 0.46, 0.20),
        azurophil=(0.62, 1.35, 0.50),
        eosin=(0.20, 0.80, 0.45),
        plasma=(0.04, 0.08, 0.20),
    ),
}


class _Painter:
    """The grid of one cell, in micrometres from its centre, and its randomness."""

    def __init__(
        self, half_um: float, pixel_size_um: float, rng: np.random.Generator
    ) -> None:
        half_px = int(np.ceil(half_um / pixel_size_um))
        axis = np.arange(-half_px, half_px + 1, dtype=np.float32) * pixel_size_um
        self.x, self.y = np.meshgrid(axis, axis)
        self.pixel_um = pixel_size_um
        self.rng = rng

    def noise(self, grain_um: float) -> Density:
        """Smooth noise, zero mean, unit variance, features of about `grain_um`."""
        size = self.x.shape[0]
        coarse = max(4, int(size * self.pixel_um / grain_um) + 3)
        field = self.rng.standard_normal((coarse, coarse), dtype=np.float32)
        smooth = cv2.resize(field, (size, size), interpolation=cv2.INTER_CUBIC)
        return np.asarray(smooth, np.float32)

    def soft(self, inside_um: Density, edge_um: float = 0.18) -> Density:
        """Turn a distance into a mask: 1 well inside, 0 outside, a soft edge."""
        return np.asarray(np.clip(inside_um / edge_um + 0.5, 0.0, 1.0), np.float32)

    def outline(self, radius_um: float, wobble: float, stretch: float = 0.0) -> Density:
        """Distance inside an irregular outline of mean `radius_um`, in µm."""
        angle = np.arctan2(self.y, self.x)
        edge = np.full_like(angle, 1.0)
        for order in range(2, 6):
            size = self.rng.normal(0, wobble / order**0.7)
            edge += size * np.cos(order * angle + self.rng.uniform(0, 6.3))
        edge += stretch * np.cos(2 * (angle - self.rng.uniform(0, 3.1)))
        inside = radius_um * edge - np.hypot(self.x, self.y)
        return np.asarray(inside, np.float32)

    def ellipse(
        self, x_um: float, y_um: float, a_um: float, b_um: float, angle: float
    ) -> Density:
        """Distance inside an ellipse, in µm, exact near its edge."""
        c, s = np.cos(angle), np.sin(angle)
        u = ((self.x - x_um) * c + (self.y - y_um) * s) / a_um
        v = ((self.y - y_um) * c - (self.x - x_um) * s) / b_um
        return np.asarray((1.0 - np.hypot(u, v)) * min(a_um, b_um), np.float32)

    def rounded(self, inside_um: Density) -> Density:
        """Return the same outline without corners: membranes are smooth."""
        smooth = cv2.GaussianBlur(inside_um, (0, 0), 0.22 / self.pixel_um)
        return np.asarray(smooth, np.float32)

    def dots(self, inside: Density, count: int, radius_um: float) -> Density:
        """Granules: `count` soft discs scattered where `inside` is positive."""
        ys, xs = np.nonzero(inside > 0)
        out: Density = np.zeros_like(self.x)
        for pick in self.rng.integers(0, len(xs), count):
            x, y = self.x[ys[pick], xs[pick]], self.y[ys[pick], xs[pick]]
            size = radius_um * self.rng.uniform(0.7, 1.25)
            reach = int(size / self.pixel_um) + 3
            r = slice(max(0, ys[pick] - reach), ys[pick] + reach + 1)
            c = slice(max(0, xs[pick] - reach), xs[pick] + reach + 1)
            far = np.hypot(self.x[r, c] - x, self.y[r, c] - y)
            np.maximum(out[r, c], self.soft(size - far, 0.16), out=out[r, c])
        return out


def _tint(strength: Density, colour: tuple[float, float, float]) -> Density:
    return np.asarray(strength[..., None] * np.asarray(colour), np.float32)


def _erythrocyte(rng: np.random.Generator, um: float, stain: Stain) -> Density:
    radius = float(np.clip(rng.normal(3.72, 0.24), 2.9, 4.4))
    p = _Painter(radius * 1.35 + 0.6, um, rng)
    inside = p.outline(
        radius, rng.uniform(0.01, 0.05), stretch=abs(rng.normal(0, 0.06))
    )
    rho = np.clip(1.0 - inside / radius, 0.0, 1.0)
    # Evans-Fung thickness, its maximum scaled to one, flattened as on a dried smear.
    evans = np.sqrt(1.0 - rho**2) * (0.207 + 2.003 * rho**2 - 1.123 * rho**4) / 0.66
    pallor = float(np.clip(rng.normal(0.5, 0.3), 0.0, 1.0))
    flat = 0.93 * p.soft(inside - 0.1, 0.6)
    body = flat * (1 - pallor) + evans * pallor
    if pallor > 0.25:  # the pale centre is seldom exactly in the middle
        dx, dy = rng.normal(0, 0.2, 2)
        centre = np.exp(-(((p.x - dx) ** 2 + (p.y - dy) ** 2) / (0.42 * radius) ** 2))
        body = body * (1 - 0.35 * pallor * centre)
    rim = np.exp(-(((inside - 0.3) / 0.24) ** 2)) * 0.13
    halo = np.exp(-(((inside + 0.28) / 0.22) ** 2)) * 0.05
    grain = 1 + 0.05 * p.noise(1.3)
    strength = rng.normal(1.0, 0.09) * p.soft(inside, 0.3)
    return _tint(strength * (body * grain + rim) - halo, stain.haemoglobin)


def _chromatin(p: _Painter, inside: Density, clump: float) -> Density:
    """Nuclear density: clumped chromatin, a slightly denser membrane."""
    texture = 0.95 + clump * np.tanh(1.6 * p.noise(0.8)) + 0.07 * p.noise(0.35)
    membrane = 0.10 * np.exp(-(((inside - 0.2) / 0.2) ** 2))
    return np.asarray(p.soft(inside, 0.26) * (texture + membrane), np.float32)


def _lobes(p: _Painter, count: int, radius_um: float, lobe_um: float) -> Density:
    """Distance inside a segmented nucleus: lobes on an arc joined by filaments."""
    start, turn = p.rng.uniform(0, 6.3), p.rng.choice([-1.0, 1.0])
    span = p.rng.uniform(0.95, 1.25) * 1.45 * (count - 1)
    centres = []
    for k in range(count):
        angle = start + turn * (span * k / max(count - 1, 1) + p.rng.normal(0, 0.12))
        r = radius_um * p.rng.uniform(0.85, 1.12)
        centres.append((r * np.cos(angle), r * np.sin(angle), angle))
    inside = np.full_like(p.x, -9.0)
    for x, y, angle in centres:
        a, b = lobe_um * p.rng.uniform(1.0, 1.4), lobe_um * p.rng.uniform(0.8, 1.0)
        lobe = p.ellipse(x, y, a, b, angle + np.pi / 2 + p.rng.normal(0, 0.35))
        inside = np.maximum(inside, lobe)
    for (x0, y0, _), (x1, y1, _) in pairwise(centres):
        ex, ey = x1 - x0, y1 - y0
        t = np.clip(((p.x - x0) * ex + (p.y - y0) * ey) / (ex**2 + ey**2), 0, 1)
        far = np.hypot(p.x - x0 - t * ex, p.y - y0 - t * ey)
        inside = np.maximum(inside, p.rng.uniform(0.22, 0.6) - far)
    return p.rounded(inside + 0.14 * p.noise(2.4))


def _leukocyte(
    kind: Kind, rng: np.random.Generator, um: float, stain: Stain
) -> Density:
    low, high = {
        "neutrophil": (5.9, 6.9),
        "eosinophil": (6.1, 7.3),
        "basophil": (5.4, 6.4),
        "lymphocyte": (4.0, 5.4),
        "monocyte": (7.0, 8.8),
    }[kind]
    radius = rng.uniform(low, high)
    p = _Painter(radius * 1.25 + 0.6, um, rng)
    body = p.outline(radius, 0.045 if kind == "monocyte" else 0.022)
    cell = p.soft(body, 0.35)
    grain = 1.0 + 0.10 * p.noise(0.5) + 0.08 * p.noise(2.0)
    if kind == "neutrophil":
        nucleus = _lobes(p, int(rng.integers(2, 6)), 0.47 * radius, 0.285 * radius)
        density = _tint(cell * 0.55 * grain, stain.cytoplasm)
        density += _tint(0.13 * cell * p.dots(body - 0.3, 260, 0.16), stain.azurophil)
        density += _tint(0.10 * cell, stain.eosin)
    elif kind == "eosinophil":
        nucleus = _lobes(p, int(rng.integers(2, 4)), 0.42 * radius, 0.34 * radius)
        density = _tint(cell * 0.30 * grain, stain.cytoplasm)
        granules = p.dots(body - 0.45, 210, 0.42)
        density += _tint(cell * (0.62 * granules + 0.25), stain.eosin)
    elif kind == "basophil":
        nucleus = _lobes(p, 2, 0.26 * radius, 0.46 * radius)
        density = _tint(cell * 0.55 * grain, stain.cytoplasm)
        density += _tint(
            0.95 * cell * p.dots(body - 0.3, int(rng.uniform(90, 170)), 0.5),
            stain.azurophil,
        )
    elif kind == "lymphocyte":
        dx, dy = rng.normal(0, 0.06 * radius, 2)
        a = radius * rng.uniform(0.74, 0.88)
        nucleus = p.ellipse(dx, dy, a, a * rng.uniform(0.9, 1.0), rng.uniform(0, 3.1))
        density = _tint(cell * 0.95 * grain, stain.cytoplasm)
    else:
        turn = rng.uniform(0, 6.3)
        a, b = radius * rng.uniform(0.66, 0.76), radius * rng.uniform(0.46, 0.56)
        nucleus = p.ellipse(0, 0, a, b, turn) + 0.16 * p.noise(2.2)
        x, y = 0.62 * radius * np.array([-np.sin(turn), np.cos(turn)])
        notch = p.ellipse(x, y, 0.36 * radius, 0.40 * radius, turn)
        nucleus = p.rounded(np.minimum(nucleus, 0.12 - notch))
        vacuoles = p.dots(body - 0.9, int(rng.integers(2, 9)), 0.42)
        density = _tint(cell * (0.95 * grain - 0.5 * vacuoles), stain.cytoplasm)
        density += _tint(0.05 * cell * p.dots(body - 0.4, 120, 0.18), stain.azurophil)
    nucleus = np.minimum(nucleus, body - 0.15)
    clump = {"lymphocyte": 0.20, "monocyte": 0.16}.get(kind, 0.24)
    strength = rng.normal(1.0, 0.07) * (0.85 if kind == "monocyte" else 1.0)
    nuclear = _chromatin(p, nucleus, clump)[..., None]
    pigment = np.asarray(stain.nucleus, np.float32) * strength
    if kind == "basophil":  # the granules lie over the nucleus and hide it
        return np.asarray(density * (1 - 0.45 * nuclear) + 0.62 * nuclear * pigment)
    return np.asarray(density * (1 - 0.85 * nuclear) + nuclear * pigment)


def _platelet(rng: np.random.Generator, um: float, stain: Stain) -> Density:
    radius = float(np.clip(rng.normal(1.3, 0.28), 0.75, 2.1))
    p = _Painter(radius * 1.7 + 0.5, um, rng)
    inside = p.outline(radius, 0.13, stretch=abs(rng.normal(0, 0.08)))
    inside = np.asarray(inside + 0.10 * p.noise(0.6), np.float32)
    core = p.dots(inside - 0.2 * radius, int(26 * radius), 0.2)
    core = 0.55 * core + 0.4 * p.soft(inside - 0.35 * radius, 0.6 * radius)
    veil = p.soft(inside, 0.35) * (1 + np.float32(0.15) * p.noise(0.5))
    density = _tint(0.9 * veil, stain.cytoplasm)
    return density + _tint(core * p.soft(inside), stain.azurophil)


def paint(kind: Kind, rng: np.random.Generator, um: float, stain: Stain) -> Density:
    """Paint a cell of this kind, no two alike.

    Parameters
    ----------
    kind
        What to paint.
    rng
        Its randomness.
    um
        Micrometres per pixel.
    stain
        The dyes.

    Returns
    -------
    Density
        (S, S, 3) float32 natural optical density, RGB; 0 where nothing is.
    """
    if kind == "erythrocyte":
        return _erythrocyte(rng, um, stain)
    if kind == "platelet":
        return _platelet(rng, um, stain)
    return _leukocyte(kind, rng, um, stain)
