"""A small simulated slide, cut into views wherever a test wants to look."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.simulation.smear import SimulatedSlide, render_slide
from edge.slide.cell_registry import Detections, detections_of
from edge.stages.detection import reduce
from edge.stages.thumbnail import Thumbnail, thumbnail_of

FRAME_PX = (480, 300)  # 134 by 84 µm
LABELS = ("RBC", "WBC", "Platelet")
THUMBNAIL_PX = (160, 100)
SCALE = THUMBNAIL_PX[0] / FRAME_PX[0]
UM_PER_PX = 0.28
MARGIN_PX = 9.0 / UM_PER_PX * SCALE  # in pixels of a view


@dataclass(frozen=True)
class Ground:
    """A slide to look at; x and y are the upper left corner of a frame on it."""

    slide: SimulatedSlide

    def view(
        self, x: int, y: int, blur_px: float = 0.5, light: float = 1.0, seed: int = 0
    ) -> Thumbnail:
        """What registration gets to see, with vignetting and noise."""
        width, height = FRAME_PX
        part = self.slide.transmittance[y : y + height, x : x + width]
        part = cv2.GaussianBlur(part, (0, 0), blur_px)
        down, right = np.mgrid[-0.3:0.3:300j, -0.5:0.5:480j]
        lamp = light * (1 - 0.8 * (down**2 + right**2))
        noise = np.random.default_rng((seed, x, y)).normal(0, 2, part.shape)
        pixels = np.clip(part * lamp[..., None] + noise, 0, 255).astype(np.uint8)
        return thumbnail_of(reduce(pixels, 24 * UM_PER_PX / 7.5))

    def truth(self, x: int, y: int, margin_px: float = 0.0) -> NDArray[np.intp]:
        """Numbers of the cells whose centre lies so far inside a frame."""
        at = self.centres - (x, y)
        inside = (at >= margin_px) & (at < np.array(FRAME_PX) - margin_px)
        return np.flatnonzero(inside.all(axis=1))

    def detections(
        self, x: int, y: int, missed: float = 0.0, seed: int = 0
    ) -> Detections:
        """What a locator with an error of a pixel would find; a share is missed."""
        random = np.random.default_rng((seed, x, y))
        half = self.sizes / 2
        boxes = np.hstack([self.centres - half, self.centres + half])
        boxes = boxes - [x, y, x, y] + random.normal(0, 1, boxes.shape)
        boxes = np.clip(np.rint(boxes), 0, [*FRAME_PX, *FRAME_PX])
        shown = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        shown &= random.random(len(boxes)) >= missed
        likely = np.full((len(boxes), 3), 0.02)
        likely[np.arange(len(boxes)), self.kinds] = 0.96
        return detections_of(boxes[shown], likely[shown], FRAME_PX, THUMBNAIL_PX)

    @property
    def centres(self) -> NDArray[np.float64]:
        return np.array([(c.x_px, c.y_px) for c in self.slide.cells])

    @property
    def sizes(self) -> NDArray[np.float64]:
        return np.array([(c.width_px, c.height_px) for c in self.slide.cells])

    @property
    def kinds(self) -> NDArray[np.intp]:
        return np.array([LABELS.index(c.label) for c in self.slide.cells])


def make_ground() -> Ground:
    return Ground(render_slide(1440, 900, pixel_size_um=UM_PER_PX, seed=5))
