"""Draw some cells of each class in one picture, to check the labels at a glance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.rows import Crops, DataInvalid

_TILE_PX, _MARGIN_PX = 64, 8
_FONT, _FONT_SCALE, _BLACK = cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0)


def contact_sheet(crops: Crops, columns: int = 20) -> NDArray[np.uint8]:
    """Return a picture of up to `columns` crops per class, one named class per row.

    The crops of a class are drawn evenly over its domains, and within a domain evenly
    over its rows.

    Raises
    ------
    DataInvalid
        There is no crop to show.
    """
    if not len(crops.rows):
        raise DataInvalid("no crop to show; no row fits the task, check task and label")
    classes = np.unique(crops.classes).tolist()
    names = [_shown_name(crops, k) for k in classes]
    height, width = _text_size(names)
    side, left = _TILE_PX, width + 2 * _MARGIN_PX
    sheet = np.full((side * len(classes), left + side * columns, 3), 255, np.uint8)
    for line, (k, name) in enumerate(zip(classes, names, strict=True)):
        baseline = side * line + (side + height) // 2
        corner = (_MARGIN_PX, baseline)
        cv2.putText(sheet, name, corner, _FONT, _FONT_SCALE, _BLACK, 1, cv2.LINE_AA)
        for column, index in enumerate(_spread(crops, k, columns)):
            tile = cv2.resize(
                crops.pixels[index], (side, side), interpolation=cv2.INTER_AREA
            )
            top, x = side * line, left + side * column
            sheet[top : top + side, x : x + side] = tile
    return sheet


def _text_size(names: Iterable[str]) -> tuple[int, int]:
    """Height and width (px) of the largest of some names."""
    sizes = [cv2.getTextSize(name, _FONT, _FONT_SCALE, 1)[0] for name in names]
    return max(height for _, height in sizes), max(width for width, _ in sizes)


def _shown_name(crops: Crops, k: int) -> str:
    """Name class `k` by the label of its rows; with several labels it is WBC."""
    labels = {
        row.label for row, c in zip(crops.rows, crops.classes, strict=True) if c == k
    }
    return labels.pop() if len(labels) == 1 else "WBC"


def _spread(crops: Crops, k: int, number: int) -> list[int]:
    """Choose up to `number` crops of class `k`, from its domains in turn.

    Returns their indices.
    """
    by_domain: dict[str, list[int]] = defaultdict(list)
    for index in np.flatnonzero(crops.classes == k).tolist():
        by_domain[crops.rows[index].domain].append(index)
    turns = []
    for domain, own in sorted(by_domain.items()):
        step = max(1.0, len(own) / number)
        chosen = [own[int(i * step)] for i in range(min(number, len(own)))]
        turns += [(turn, domain, index) for turn, index in enumerate(chosen)]
    return sorted(index for _, _, index in sorted(turns)[:number])
