"""The command `hemascope calibrate confidence`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import msgspec
import numpy as np
from numpy.typing import NDArray

from calibration.confidence import (
    Classes,
    abstention_threshold,
    adaptation_gain,
    expected_calibration_error,
    fit_adaptation,
)
from calibration.reviewed import predictions_of, read_reviewed
from calibration.versions import replace_profile
from edge.artifacts.bundle import MODEL
from edge.artifacts.profile import ConfidenceRecord, Profile, load_profile
from edge.pipeline.parts import Parts, read_parts, shipped_classifier
from edge.pipeline.pixel_size import Scale
from edge.rendering.plots import BLUE, INK, RED, Axes, png
from edge.rendering.report_blocks import Paragraph, Picture, TextTable, write_pages
from edge.stages.decision import Adaptation, log_probabilities

_MAX_ABSTAINED = 0.2
_MIN_SAVED = 0.005  # nats per cell: less is not worth a new calibration
_BINS = 8


def calibrate_confidence(
    reviewed: Path,
    profile: Path,
    bundle: Path | None,
    pixel_size_um: float | None,
    error_rate: float | None,
) -> None:
    """Fit the model's confidence to reviewed cells of this site."""
    old = load_profile(profile)
    uncalibrated = msgspec.structs.replace(old.record, confidence=None)
    parts = _parts(Profile(uncalibrated, old.flat_field, old.calibration_id), bundle)
    cells = read_reviewed(reviewed, parts.classifier.labels)
    predicted, classes, left_out = predictions_of(
        cells, parts.open_pipeline(), pixel_size_um
    )
    for line in left_out:
        click.echo(f"left out: {line}")
    fitted = fit_adaptation(predicted, classes)
    after = log_probabilities(fitted.applied(predicted), 1.0)
    saved = adaptation_gain(predicted, classes)
    record = _record(
        parts, fitted, predicted, after, classes, saved=saved, error_rate=error_rate
    )
    page = _write_page(profile / "confidence", record, predicted, after, classes)
    click.echo(
        f"{len(classes)} cells; calibration error {record.errors[0]:.3f} to "
        f"{record.errors[1]:.3f} on them; {saved:+.3f} nats per cell on cells not "
        f"fitted to\npage: {page}"
    )
    if saved < _MIN_SAVED:
        click.echo("nothing was changed: it would not help on other cells")
        return
    new = replace_profile(
        profile,
        msgspec.structs.replace(uncalibrated, confidence=record),
        old.flat_field,
    )
    click.echo(f"profile: {profile}, calibration {(new.calibration_id or '')[:12]}")


def _parts(profile: Profile, bundle: Path | None) -> Parts:
    """Return the parts of a pipeline with this profile, and with this model."""
    return replace(
        read_parts(classifier=bundle or shipped_classifier(profile)),
        profile=profile,
        scale=Scale(profile.record.pixel_size_um),
    )


def _record(
    parts: Parts,
    fitted: Adaptation,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    classes: Classes,
    *,
    saved: float,
    error_rate: float | None,
) -> ConfidenceRecord:
    """Say what was fitted to which model, and how good it is.

    `before` and `after` (N, K) are natural logarithms of the reviewed cells'
    probabilities, `classes` (N,) their reviewed classes; `saved` is the gain on cells
    that were not fitted to.
    """
    below = None
    if error_rate is not None:
        below = abstention_threshold(after, classes, 1.0, error_rate, _MAX_ABSTAINED)
    errors = [expected_calibration_error(s, classes, 1.0) for s in (before, after)]
    return ConfidenceRecord(
        model=parts.classifier.record.files[MODEL],
        classes=parts.classifier.labels,
        scale=tuple(fitted.scale.round(6).tolist()),
        bias=tuple(fitted.bias.round(6).tolist()),
        abstain_below=None if below is None else round(below, 4),
        cells=len(classes),
        saved=round(saved, 4),
        errors=(round(errors[0], 4), round(errors[1], 4)),
    )


def _write_page(
    folder: Path,
    record: ConfidenceRecord,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    classes: Classes,
) -> Path:
    """Write `report.html` and `report.md` and return the path of the first.

    `before` and `after` (N, K) are natural logarithms of probabilities.
    """
    axes = Axes((0, 1), (0, 1), (480, 420), ("confidence", "share that is right"))
    axes.line([0, 1], [0, 1], INK, 1)
    for predicted, colour in ((before, RED), (after, BLUE)):
        x, y = _reliability(predicted, classes)
        axes.line(x, y, colour)
        axes.dots(x, y, colour, 4)
    named = np.exp(after).max(axis=1) >= (record.abstain_below or 0.0)
    right = after.argmax(axis=1) == classes
    wrong = 1 - float(right[named].mean()) if named.any() else 0.0
    return write_pages(
        folder,
        "Confidence at this site",
        [
            Paragraph(
                "Where confidence means what it says, the dots lie on the diagonal. "
                "The reviewed cells were fitted to: on others the gain is the one of "
                "the table."
            ),
            Picture(
                "reliability",
                png(axes.image),
                "Share of right names over confidence, before (red) and after (blue)",
                "Above the diagonal the model is too modest, below it too sure.",
            ),
            TextTable(
                ["measured", "value"],
                [
                    ["reviewed cells", str(record.cells)],
                    ["calibration error before", f"{record.errors[0]:.3f}"],
                    ["calibration error after", f"{record.errors[1]:.3f}"],
                    ["saved on other cells, nats per cell", f"{record.saved:+.3f}"],
                    ["named from this confidence on", str(record.abstain_below)],
                    ["named", f"{named.mean():.1%}"],
                    ["wrong among the named", f"{wrong:.1%}"],
                ],
            ),
        ],
    )


def _reliability(
    predicted: NDArray[np.float64], classes: Classes
) -> tuple[list[float], list[float]]:
    """Mean confidence and share of right names in equally filled bins.

    `predicted` (N, K) are natural logarithms, `classes` (N,) the true classes.
    """
    confidence = np.exp(predicted).max(axis=1)
    right = predicted.argmax(axis=1) == classes
    bins = np.array_split(
        np.argsort(confidence), min(_BINS, max(1, len(confidence) // 5))
    )
    return (
        [float(confidence[b].mean()) for b in bins],
        [float(right[b].mean()) for b in bins],
    )
