"""How far confidence can be believed: that of every box, false boxes included."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.confidence import calibration_error
from edge.artifacts.bundle import Metric
from training.metrics.bootstrap import with_interval

_DRAWS = 200
_LEAST = 1e-6  # a certainty that was wrong costs 14 nats, not infinitely many


@dataclass(frozen=True, slots=True, eq=False)
class NamedBoxes:
    """Boxes to which a name was given.

    `confidence` (N,) float64, 0 to 1; `is_right` (N,) bool: a cell of that name is
    there; `field` (N,) the field of view, since boxes of one field are alike.
    """

    confidence: NDArray[np.float64]
    is_right: NDArray[np.bool_]
    field: NDArray[np.int64]

    def where(self, chosen: NDArray[np.bool_]) -> NamedBoxes:
        """Return the boxes of `chosen` (N,)."""
        return NamedBoxes(
            self.confidence[chosen], self.is_right[chosen], self.field[chosen]
        )


@dataclass(frozen=True, slots=True)
class ConfidenceQuality:
    """What the confidences of `boxes` are worth; see `confidence_quality`."""

    boxes: int
    confidence: float
    right: float
    calibration_error: Metric
    brier: float
    log_loss: float


def confidence_quality(boxes: NamedBoxes) -> ConfidenceQuality:
    """Compare confidence with how often the names are right.

    Returns
    -------
    ConfidenceQuality
        Mean confidence, share of right names, expected calibration error (Guo et al.,
        arXiv 1706.04599) with its 95 % interval over fields, the mean of
        (confidence - right)² (Brier, Monthly Weather Review 78, 1950), and the mean
        negative log likelihood in nats.

    Raises
    ------
    ValueError
        There are no boxes.
    """
    if not len(boxes.confidence):
        raise ValueError("no box was given a name: there is no confidence to judge")
    confidence, right = boxes.confidence, boxes.is_right
    likely = np.clip(np.where(right, confidence, 1 - confidence), _LEAST, 1)
    return ConfidenceQuality(
        len(confidence),
        float(confidence.mean()),
        float(right.mean()),
        with_interval(
            lambda rows: calibration_error(confidence[rows], right[rows]),
            [str(number) for number in boxes.field],
            draws=_DRAWS,
        ),
        float(np.mean((confidence - right) ** 2)),
        float(-np.log(likely).mean()),
    )
