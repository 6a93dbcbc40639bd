"""Write the report of a comparison of models, as Markdown and as one HTML file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edge.artifacts.bundle import Metric
from edge.rendering.report_blocks import (
    Block,
    Heading,
    Picture,
    ReportImpossible,
    TextTable,
    write_pages,
)
from training.choices import Colour
from training.metrics.held_out import Evaluated, score
from training.reports import figures
from training.reports.sections import compared, interval_text, number


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A model that was fitted to all domains but one, evaluated on that one.

    `norm` is "batch", "group" or "none"; `colour` what all domains were brought to;
    `home` is the balanced accuracy on held-out cells of the other domains. `errors` are
    calibration errors on the domain left out: as fitted at home, and after 100 of its
    cells were reviewed. `shown_as` is the balanced accuracy on the same cells in other
    colours than the model was fitted to.
    """

    family: str
    norm: str
    colour: Colour
    domain: str
    balanced_accuracy: Metric
    home: float
    seconds: float
    errors: tuple[float, float] | None = None
    shown_as: dict[Colour, Metric] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LabelEfficiency:
    """Balanced accuracy of the DBN fitted to a `share` (0 to 1) of the labels."""

    share: float
    pretrained: Metric
    from_scratch: Metric


def write_report(
    folder: Path,
    evaluated: Sequence[Evaluated],
    *,
    title: str,
    facts: Mapping[str, str],
    exclusions: Sequence[tuple[str, str]] = (),
    left_out: Sequence[LeftOut] = (),
    efficiency: Sequence[LabelEfficiency] = (),
    pictures: Mapping[str, Path] | None = None,
) -> Path:
    """Write `report.md` with `figures/`, and `report.html`, which needs no other file.

    Parameters
    ----------
    folder
        Made if it does not exist.
    evaluated
        The models, all evaluated on the same cells.
    title, facts
        The title, and what the reader must know of the data and the machine.
    exclusions
        (domain, class) of doubtful labels; these domains are shown without them too.
    left_out, efficiency
        Results of these studies, if there are any.
    pictures
        PNG or JPEG images to show, by caption.

    Returns
    -------
    Path
        Of `report.html`.

    Raises
    ------
    ReportImpossible
        The models were evaluated on different cells, or a picture is no PNG or JPEG.
    """
    _check_comparable(evaluated)
    scores = [score(j, exclusions) for j in evaluated]
    blocks = [
        TextTable(("about this report", ""), list(facts.items())),
        *compared(evaluated, scores),
        *_left_out(left_out),
        *_efficiency(efficiency),
        *_gallery(pictures or {}),
    ]
    return write_pages(folder, title, blocks)


def _left_out(results: Sequence[LeftOut]) -> Iterator[Block]:
    if not results:
        return
    variants = list(dict.fromkeys(map(_variant, results)))
    domains = sorted({r.domain for r in results})
    results_of = {
        (_variant(r), r.domain): (r.balanced_accuracy.value, r.home) for r in results
    }
    table = [
        [results_of.get((v, d), (np.nan, np.nan)) for d in domains] for v in variants
    ]
    yield Heading("A laboratory left out")
    yield TextTable(
        (
            "model",
            "left out",
            "cells",
            "balanced accuracy",
            "at home",
            "calibration error there",
            "after 100 reviewed cells",
            "training (s)",
        ),
        [
            [
                _variant(r),
                r.domain,
                str(r.balanced_accuracy.rows),
                interval_text(r.balanced_accuracy),
                number(r.home, ".3f"),
                *(number(e, ".3f") for e in r.errors or (np.nan, np.nan)),
                number(r.seconds, ",.4g"),
            ]
            for r in results
        ],
    )
    yield Picture(
        "left-out",
        figures.left_out(variants, domains, np.array(table)),
        "Balanced accuracy on each domain when it was left out of training",
        "Each cell is a model that never met the domain of its column. In brackets: "
        "the same model on held-out cells of the domains that it knows.",
    )


def _variant(result: LeftOut) -> str:
    norm = "no norm" if result.norm == "none" else f"{result.norm} norm"
    colour = "" if result.colour == "as-is" else f", {result.colour}"
    return f"{result.family}, {norm}{colour}"


def _efficiency(results: Sequence[LabelEfficiency]) -> Iterator[Block]:
    if not results:
        return
    results = sorted(results, key=lambda r: r.share)
    yield Heading("Label efficiency")
    yield TextTable(
        ("share of labels", "pretrained", "from scratch"),
        [
            [
                f"{100 * r.share:g} %",
                interval_text(r.pretrained),
                interval_text(r.from_scratch),
            ]
            for r in results
        ],
    )
    lines = {
        "pretrained without labels": [r.pretrained for r in results],
        "from scratch": [r.from_scratch for r in results],
    }
    yield Picture(
        "label-efficiency",
        figures.label_efficiency([r.share for r in results], lines),
        "Balanced accuracy of the DBN over the share of labels used",
        "Where the upper line is well above the other, pretraining without labels "
        "saves labelling.",
    )


def _gallery(pictures: Mapping[str, Path]) -> Iterator[Block]:
    if pictures:
        yield Heading("Pictures")
    for index, (caption, path) in enumerate(pictures.items(), 1):
        yield Picture(f"picture-{index}", path.read_bytes(), caption, caption)


def _check_comparable(evaluated: Sequence[Evaluated]) -> None:
    if not evaluated:
        raise ReportImpossible("0 models, expected at least 1; name a trained model")
    first = evaluated[0]
    for other in evaluated[1:]:
        if other.labels != first.labels or not all(
            np.array_equal(getattr(other, rows), getattr(first, rows))
            for rows in ("classes", "domains", "groups")
        ):
            raise ReportImpossible(
                f"{other.name} was evaluated on {len(other.classes)} cells of "
                f"{other.labels}, expected the very {len(first.classes)} cells of "
                f"{first.labels} of {first.name}; use one task and one split"
            )
