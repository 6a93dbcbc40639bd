"""Correct counts for the known confusion of a model, and say how sure the result is.

A model that sometimes names a class wrongly reports wrong shares, however many cells
are counted. Its confusion matrix C, with C[i, j] the share of true class i that is
named j, links the true shares t and the reported shares r by r = t @ C. Solving for
t is the correction of Rogan and Gladen (Am. J. Epidemiology 107:71, 1978) for several
classes.

Both C and r are known from finite numbers of cells. So both are drawn many times from
their posterior distributions (Dirichlet, with Jeffreys' prior), and the spread of the
solutions gives the limits. They are never closer to the share than the exact ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edge.errors import ConfigurationInvalid
from edge.schema.codec import read_json
from edge.schema.results import Limits
from edge.slide.binomial_intervals import clopper_pearson

_DRAWS = 2000
_PRIOR = 0.5  # cells added to each count: Jeffreys' prior
# With every recall above 0.5 the matrix is diagonally dominant, so it can be inverted.
_MIN_RECALL = 0.5
# Nominal level of the drawn limits. At 0.95, with 100 cells, they held the true share
# in only 92 to 94 % of trials.
_DRAWN_LEVEL = 0.97
_REDRAWN_GROWTH = 0.01  # share of new cells after which limits are drawn again

Counted = Annotated[int, Meta(ge=0)]


class ConfusionFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cells of each true class (rows) by what the model named them (columns).

    Cells that it left unidentified are not in it. Measured with `hemascope evaluate
    --confusion` on cells that the model was not trained on.
    """

    classes: tuple[str, ...]
    cells: tuple[tuple[Counted, ...], ...]


class Correction:
    """Corrects counts of the classes of one model. Used from one thread."""

    def __init__(self, file: ConfusionFile, seed: int = 0) -> None:
        """Take the confusion.

        Raises
        ------
        ConfigurationInvalid
            It is not square, or a class is reported correctly in half of its cells or
            less: such counts cannot be corrected.
        """
        self._classes = file.classes
        is_named = 0 < len(file.classes) == len(set(file.classes))
        if not is_named or not _is_square(file):
            raise ConfigurationInvalid(
                f"the confusion of {file.classes} has rows of "
                f"{[len(row) for row in file.cells]} cells, expected a square, a row "
                "and a column per class"
            )
        self._cells = np.array(file.cells, np.float64)
        true_cells = self._cells.sum(axis=1)
        recall = np.diagonal(self._cells) / np.maximum(true_cells, 1)
        for name, correct_share, cells in zip(
            file.classes, recall, true_cells, strict=True
        ):
            if correct_share <= _MIN_RECALL:
                raise ConfigurationInvalid(
                    f"the confusion has {name!r} named correctly in "
                    f"{correct_share:.2f} of {cells:.0f} cells, expected more than "
                    f"{_MIN_RECALL}; such a model's counts cannot be corrected"
                )
        self._random = np.random.default_rng(seed)
        self._last: tuple[dict[str, int], dict[str, Limits]] | None = None

    def check(self, labels: list[str]) -> None:
        """Refuse a confusion of other classes than those that are counted.

        Raises
        ------
        ConfigurationInvalid
            A class in `labels` is missing.
        """
        missing = sorted(set(labels) - set(self._classes))
        if missing:
            raise ConfigurationInvalid(
                f"the confusion knows {list(self._classes)}, not {missing}; measure it "
                "with the model that counts"
            )

    def correct(self, counts: dict[str, int]) -> dict[str, Limits]:
        """Return corrected shares with limits.

        Where less than 1 % of the cells are new since the last call, its result is
        returned again.
        """
        if self._last is not None:
            before, limits = self._last
            changed = sum(abs(counts[name] - before.get(name, 0)) for name in counts)
            if changed <= _REDRAWN_GROWTH * sum(counts.values()):
                return limits
        limits = self._solve(counts)
        self._last = (dict(counts), limits)
        return limits

    def _solve(self, counts: dict[str, int]) -> dict[str, Limits]:
        """Compute corrected shares, and limits from draws."""
        names = list(counts)
        order = [self._classes.index(name) for name in names]
        confusion = self._cells[np.ix_(order, order)]
        reported = np.array([counts[name] for name in names], np.float64)
        total = reported.sum()
        share = _true_shares(
            (confusion + _PRIOR / len(names))[None], (reported / total)[None]
        )[0]
        rows = self._random.standard_gamma(  # normalised below: Dirichlet draws
            confusion + _PRIOR / len(names), (_DRAWS, *confusion.shape)
        )
        drawn = _true_shares(rows, self._random.dirichlet(reported + _PRIOR, _DRAWS))
        tail = 100 * (1 - _DRAWN_LEVEL) / 2
        low, high = np.percentile(drawn, [tail, 100 - tail], axis=0)
        corrected = {}
        for n, name in enumerate(names):
            exact_low, exact_high = clopper_pearson(float(reported[n]), float(total))
            below = reported[n] / total - exact_low
            above = exact_high - reported[n] / total
            corrected[name] = Limits(
                share=round(float(share[n]), 6),
                low=round(max(0.0, min(low[n], share[n] - below)), 6),
                high=round(min(1.0, max(high[n], share[n] + above)), 6),
            )
        return corrected


def read_confusion(path: Path) -> ConfusionFile:
    """Read a confusion file; errors name it."""
    return read_json(path, ConfusionFile)


def _is_square(file: ConfusionFile) -> bool:
    size = len(file.classes)
    return len(file.cells) == size and all(len(row) == size for row in file.cells)


def _true_shares(
    confusion: NDArray[np.float64], reported: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the true shares (N, K) of N problems, all float64.

    `confusion` (N, K, K) cells, true class by reported class; `reported` (N, K) shares.
    Negative solutions, which noise can give, are set to 0.
    """
    likely = confusion / confusion.sum(axis=2, keepdims=True)
    true = np.linalg.solve(likely.transpose(0, 2, 1), reported[..., None])[..., 0]
    true = np.clip(true, 0.0, None)
    return np.asarray(true / true.sum(axis=1, keepdims=True))
