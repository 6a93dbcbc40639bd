"""What figures are drawn with: styles, axes, bars and matrices."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import NDArray

from edge.artifacts.bundle import Metric
from training.fitting.families import CLASSIFIERS, OTHER_COLOUR
from training.metrics.held_out import Evaluated

INK, _GRID, _OUTLINE = "#1c2430", "#ddd6cc", "#D55E00"
LINES, MARKERS, _HATCHES = ("-", "--", ":", "-."), "osD^", ("", "///", "...", "xxx")
_WIDTH, _DPI = 9.6, 120  # inches; 1152 px


class Style(NamedTuple):
    """How a model is drawn: its family's colour, its own line, marker and hatch."""

    name: str
    colour: str
    line: str
    marker: str
    hatch: str


def family_colour(family: str) -> str:
    """Return the colour of a family, or that of families that are not ours."""
    return CLASSIFIERS[family].colour if family in CLASSIFIERS else OTHER_COLOUR


def styles(evaluated: Sequence[Evaluated]) -> list[Style]:
    """Return a style per model; those of one family differ in line and marker."""
    found = []
    for index, model in enumerate(evaluated):
        n = sum(j.family == model.family for j in evaluated[:index]) % len(LINES)
        colour = family_colour(model.family)
        name = literal(model.name)
        found.append(Style(name, colour, LINES[n], MARKERS[n], _HATCHES[n]))
    return found


def fill(style: Style, *, hatched: bool = True) -> dict[str, Any]:
    """Return the arguments of a bar: pale inside, with an edge in full colour."""
    arguments = {"color": to_rgba(style.colour, 0.55), "ec": style.colour}
    return arguments | ({"hatch": style.hatch} if hatched else {})


def literal(text: str) -> str:
    """Keep Matplotlib from reading a formula between dollar signs."""
    return text.replace("$", r"\$")


def panels(
    rows: int, columns: int, height: float, *, share: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its empty axes, row by row; `height` in inches."""
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    each = list(figure.subplots(rows, columns, squeeze=False, sharey=share).flat)
    for axes in each:
        axes.grid(color=_GRID, lw=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    return figure, each


def one_each(
    evaluated: Sequence[Evaluated], height: float
) -> tuple[Figure, list[Axes]]:
    """Return a figure with axes for each model, three in a row of this height."""
    columns = min(3, len(evaluated))
    rows = math.ceil(len(evaluated) / columns)
    figure, each = panels(rows, columns, height * rows)
    for spare in each[len(evaluated) :]:
        spare.set_axis_off()
    return figure, each[: len(evaluated)]


def png(figure: Figure, explained: Axes | None = None) -> bytes:
    """Return a figure as PNG, with a legend of the lines of `explained`."""
    if explained:
        handles, names = explained.get_legend_handles_labels()
        figure.legend(
            handles, names, loc="outside right upper", frameon=False, fontsize=9
        )
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI)
    return stream.getvalue()


def bar(
    axes: Axes, x: float, metric: Metric, floor: float, style: Style, width: float
) -> None:
    """Draw a bar from `floor`, its interval, and its value above."""
    axes.bar(x, metric.value - floor, width, floor, **fill(style))
    axes.vlines(x, metric.low, metric.high, color=INK, lw=1.2)
    write_above(axes, x, metric.high, f"{metric.value:.3f}")


def write_above(axes: Axes, x: float, y: float, text: str) -> None:
    """Write a small text just above a point."""
    axes.annotate(
        text, (x, y), (0, 3), textcoords="offset points", ha="center", fontsize=7
    )


def heat(
    axes: Axes,
    values: NDArray[np.float64],
    texts: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    floor: float,
    outlined: NDArray[np.bool_] | None = None,
) -> None:
    """Draw a matrix (R, C), colours from `floor` to 1, with texts in its cells.

    `outlined` (R, C) marks cells with a frame.
    """
    axes.imshow(values, cmap="Blues", vmin=floor, vmax=1, aspect="auto")
    for y, x in np.ndindex(values.shape):
        is_dark = values[y, x] > floor + 0.65 * (1 - floor)
        is_marked = outlined is not None and bool(outlined[y, x])
        font: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9}
        font["color"] = "white" if is_dark else INK
        font["weight"] = "bold" if is_marked else "normal"
        axes.text(x, y, texts[y][x], **font)
        if is_marked:
            edge = to_rgba(_OUTLINE)
            corner = x - 0.46, y - 0.44
            axes.add_patch(Rectangle(corner, 0.92, 0.88, fill=False, ec=edge, lw=2))
    axes.set_xticks(range(len(columns)), [literal(c) for c in columns])
    axes.set_yticks(range(len(rows)), rows)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def share_axis(axes: Axes, what: str, low: float, high: float) -> None:
    """Set up the y axis for shares: a tick each 0.05, or each 0.1 on a long axis."""
    axes.set_ylabel(ranged(what, low))
    axes.set_ylim(low, high)
    step = 0.05 if low >= 0.5 else 0.1
    axes.set_yticks(np.arange(low, 1.001, step))


def log_axis(axes: Axes, values: Sequence[float]) -> float:
    """Set up a logarithmic x axis with room for texts; return where it starts.

    Values that are not above 0 are not known.
    """
    known = [value for value in values if value > 0]
    start, end = 0.4 * min(known, default=1), 2.5 * max(known, default=1)
    room = (end / start) ** 0.15
    axes.set_xscale("log")
    axes.set_xlim(start, end * room)
    subs = (1, 2, 5) if end / start < 100 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.xaxis.set_minor_locator(NullLocator())
    return start


def floor(values: Iterable[float]) -> float:
    """Return where an axis starts: the tenth below the lowest finite value."""
    lowest = min((v for v in values if np.isfinite(v)), default=1.0)
    return max(0, math.floor(10 * lowest - 0.3)) / 10


def ranged(what: str, low: float) -> str:
    """Label an axis with where it starts."""
    return f"{what}, shown from {low:.1f} to 1"
