"""Take a model's known confusion back out of its counts, and say how sure that is.

A class that is named wrongly now and then has a wrong share, however many cells are
counted. If the confusion is known, the shares that would give the named ones follow
from a linear system: Rogan and Gladen's correction (1978) for several classes. What is
named, and the confusion itself, are known from finite numbers of cells; both are drawn
again many times (posterior simulation with Dirichlet priors), and the spread of the
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
_PRIOR = 0.5  # cells added to each count, Jeffreys' prior of a share
_LEAST_RECALL = 0.5  # only above it there is one solution for certain
_DRAWN_LEVEL = 0.97  # of 95 % limits from draws, of 100 cells, only 92 to 94 hold
_GROWTH = 0.01  # limits are drawn again when so much was added

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
            It is not square, or a class is hardly ever named rightly: nothing could be
            taken back.
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
        seen = self._cells.sum(axis=1)
        recall = np.diagonal(self._cells) / np.maximum(seen, 1)
        for name, right, cells in zip(file.classes, recall, seen, strict=True):
            if right <= _LEAST_RECALL:
                raise ConfigurationInvalid(
                    f"the confusion has {name!r} named rightly in {right:.2f} of "
                    f"{cells:.0f} cells, expected more than {_LEAST_RECALL}; such a "
                    "model's counts cannot be corrected"
                )
        self._random = np.random.default_rng(seed)
        self._last: tuple[dict[str, int], dict[str, Limits]] | None = None

    def check(self, labels: list[str]) -> None:
        """Refuse a confusion of other classes than those that are counted."""
        missing = sorted(set(labels) - set(self._classes))
        if missing:
            raise ConfigurationInvalid(
                f"the confusion knows {list(self._classes)}, not {missing}; measure it "
                "with the model that counts"
            )

    def correct(self, counts: dict[str, int]) -> dict[str, Limits]:
        """Return corrected shares with limits.

        Where hardly anything was added since the last time, that is given again.
        """
        if self._last is not None:
            before, limits = self._last
            changed = sum(abs(counts[name] - before.get(name, 0)) for name in counts)
            if changed <= _GROWTH * sum(counts.values()):
                return limits
        limits = self._solve(counts)
        self._last = (dict(counts), limits)
        return limits

    def _solve(self, counts: dict[str, int]) -> dict[str, Limits]:
        names = list(counts)
        places = [self._classes.index(name) for name in names]
        confusion = self._cells[np.ix_(places, places)]
        named = np.array([counts[name] for name in names], np.float64)
        total = named.sum()
        share = _unmixed(
            (confusion + _PRIOR / len(names))[None], (named / total)[None]
        )[0]
        rows = self._random.standard_gamma(
            confusion + _PRIOR / len(names), (_DRAWS, *confusion.shape)
        )
        drawn = _unmixed(rows, self._random.dirichlet(named + _PRIOR, _DRAWS))
        tail = 100 * (1 - _DRAWN_LEVEL) / 2
        low, high = np.percentile(drawn, [tail, 100 - tail], axis=0)
        found = {}
        for n, name in enumerate(names):
            exact_low, exact_high = clopper_pearson(float(named[n]), float(total))
            below, above = named[n] / total - exact_low, exact_high - named[n] / total
            found[name] = Limits(
                share=round(float(share[n]), 6),
                low=round(max(0.0, min(low[n], share[n] - below)), 6),
                high=round(min(1.0, max(high[n], share[n] + above)), 6),
            )
        return found


def read_confusion(path: Path) -> ConfusionFile:
    """Read a confusion file; errors name it."""
    return read_json(path, ConfusionFile)


def _is_square(file: ConfusionFile) -> bool:
    size = len(file.classes)
    return len(file.cells) == size and all(len(row) == size for row in file.cells)


def _unmixed(
    confusion: NDArray[np.float64], named: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Solve for the true shares (N, K) of confusions (N, K, K), named shares (N, K)."""
    likely = confusion / confusion.sum(axis=2, keepdims=True)
    true = np.linalg.solve(likely.transpose(0, 2, 1), named[..., None])[..., 0]
    true = np.clip(true, 0.0, None)
    return np.asarray(true / true.sum(axis=1, keepdims=True))
