"""A pipeline of well-known libraries, as a laboratory might build it, to compare with.

torchstain normalises each frame, scikit-image separates cells by distance transform and
watershed, torch runs the network eagerly, and the result is written as JSON and JPEG.
The device uses none of this.
"""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage import color, feature, filters, measure, segmentation
from torchstain.numpy import normalizers

from training.fitting.families import CLASSIFIERS, new_classifier
from training.fitting.model_graphs import Standardise

Frame = NDArray[np.uint8]


class ReferencePipeline:
    """The pipeline; its stain normalisation is fitted to one frame. One thread."""

    def __init__(
        self, reference: Frame, family: str, classes: int, size_px: int
    ) -> None:
        self._normaliser = normalizers.NumpyMacenkoNormalizer()
        self._normaliser.fit(reference)
        network = CLASSIFIERS[family].network
        standardise = Standardise((0.7,) * 3, (0.2,) * 3)
        self._graph = new_classifier(family, classes, network, standardise).eval()
        self._size_px = size_px

    def examine(self, frame: Frame) -> bytes:
        """Normalise, locate and classify one frame; return JSON and JPEG."""
        normal = self.normalise(frame)
        boxes = self.locate(normal)
        probabilities = self.classify(normal, boxes)
        cells = [
            {"box": [int(v) for v in box], "probabilities": [float(p) for p in row]}
            for box, row in zip(boxes, probabilities, strict=True)
        ]
        picture = cv2.resize(normal, (960, 960 * frame.shape[0] // frame.shape[1]))
        _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        return json.dumps({"cells": cells}).encode() + jpeg.tobytes()

    def normalise(self, frame: Frame) -> Frame:
        """Normalise the stain of a frame by its own statistics (Macenko)."""
        normal, _, _ = self._normaliser.normalize(I=frame, stains=False)
        return np.ascontiguousarray(normal, np.uint8)

    def locate(self, frame: Frame) -> NDArray[np.intp]:
        """Boxes (N, 4), pixels, of watershed basins on the frame at half its size."""
        half = frame[::2, ::2]
        grey = color.rgb2gray(half)
        mask = ndimage.binary_fill_holes(grey < filters.threshold_otsu(grey))
        depth = ndimage.distance_transform_edt(mask)
        peaks = feature.peak_local_max(
            depth, min_distance=15, labels=measure.label(mask)
        )
        seeds = np.zeros(mask.shape, int)
        seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
        basins = segmentation.watershed(-depth, seeds, mask=mask)
        found = [r.bbox for r in measure.regionprops(basins) if r.area > 60]
        boxes = np.array(found, np.intp).reshape(-1, 4)
        return boxes[:, [1, 0, 3, 2]] * 2

    @torch.inference_mode()
    def classify(self, frame: Frame, boxes: NDArray[np.intp]) -> NDArray[Any]:
        """Probabilities (N, K) of the crops, in one eager batch."""
        if len(boxes) == 0:
            return np.zeros((0, 0), np.float32)
        size = (self._size_px, self._size_px)
        crops = [cv2.resize(frame[y0:y1, x0:x1], size) for x0, y0, x1, y1 in boxes]
        _, probabilities = self._graph(torch.from_numpy(np.stack(crops)))
        return np.asarray(probabilities.numpy())
