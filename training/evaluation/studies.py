"""Studies: many short trainings that show what helps.

Each result is written at once, so a study that was stopped goes on where it was.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch

from calibration.confidence import (
    REVIEWED,
    expected_calibration_error,
    fit_adaptation,
    fit_temperature,
)
from edge.artifacts.bundle import Metric
from edge.schema.codec import encode, read_json
from edge.stages.decision import log_probabilities
from edge.taxonomy import TASKS
from training.choices import COLOURS, NORMS, Colour, Norm
from training.data.clips import Clips
from training.data.rows import DataInvalid
from training.fitting.classifier import (
    Predictions,
    evaluate,
    standardise,
    train_classifier,
)
from training.fitting.dbn_pretraining import pretrain
from training.fitting.device import SINGLE_CPU
from training.fitting.families import CLASSIFIERS, Family, new_classifier
from training.fitting.loop import FitPlan
from training.fitting.model_graphs import ClassifierGraph
from training.metrics.bootstrap import balanced_accuracy, with_interval
from training.models.dbn import DBN
from training.reports.comparison_report import LabelEfficiency, LeftOut
from training.sessions.classifier_session import TrainingRequest, thinned, unlabelled
from training.sessions.gathering import (
    Cells,
    GatheredRows,
    clips_of,
    cut_cells,
    profiles_of,
)

Say = Callable[[str], None]


class Study(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file of finished trainings."""

    left_out: tuple[LeftOut, ...] = ()
    efficiency: tuple[LabelEfficiency, ...] = ()


def read_study(path: Path) -> Study:
    """Read a study.

    Raises
    ------
    ConfigurationInvalid
        The file is not a study.
    """
    return read_json(path, Study)


def _read_or_new(path: Path) -> Study:
    """Read a study to go on with, or begin one."""
    return read_study(path) if path.exists() else Study()


def _write(path: Path, study: Study) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(encode(study)) + b"\n")


def leave_out(
    gathered: GatheredRows,
    request: TrainingRequest,
    domains: Sequence[str],
    out: Path,
    say: Say,
    norms: Sequence[Norm] = NORMS[:2],
    colours: Sequence[Colour] = COLOURS,
    shown_as: Sequence[Colour] = (),
) -> None:
    """Fit a family without each domain in turn, and evaluate it on that domain.

    What `out` holds already is not done again.

    Parameters
    ----------
    gathered
        Cells of task `cells4`. The left-out ones are those of `train` and `val`.
    request
        The family, its network and plan; nothing is pretrained.
    domains
        Each is left out once.
    out
        File of the study.
    say
        Shows a line.
    norms
        Normalisations to try, of a family that has any.
    colours
        Colour treatments to try; all domains get the same one.
    shown_as
        Treatments in which the same model is also evaluated on the domain left out.

    Raises
    ------
    DataInvalid
        There are no cells of a domain.
    """
    _refuse_unknown_domains(gathered, domains)
    kind = replace(CLASSIFIERS[request.family], network=request.network)
    tried: Sequence[str] = norms if "norm" in kind.network else ("none",)
    study = _read_or_new(out)
    for colour in colours:
        todo = [
            (domain, norm)
            for domain in domains
            for norm in tried
            if not _has(study, request.family, norm, colour, domain)
        ]
        if not todo:
            continue
        cells = _cells_in(gathered, kind, colour, shown_as, say)
        for domain, norm in todo:
            result = _fit_without(domain, norm, cells, request, kind)
            study = msgspec.structs.replace(study, left_out=(*study.left_out, result))
            _write(out, study)
            say(f"{request.family} {norm} {colour} without {domain}: {result}")


def _refuse_unknown_domains(gathered: GatheredRows, domains: Sequence[str]) -> None:
    """Refuse a domain that has no cells.

    Raises
    ------
    DataInvalid
        Names the domains without cells, and those with some.
    """
    known = {row.domain for part in gathered.parts.values() for row, _ in part}
    if not set(domains) <= known:
        raise DataInvalid(
            f"domains {sorted(set(domains) - known)} have no cells, expected some of "
            f"{sorted(known)}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class _ColouredCells:
    """Cells of all domains in one colour treatment.

    `evaluated` holds the cells of `train` and `val`, cut as the device cuts them: those
    that a model is evaluated on when their domain is left out. They come in the colour
    of the model first, then in each other one.
    """

    colour: Colour
    task: str
    cells: Cells
    evaluated: dict[Colour, Clips]


def _cells_in(
    gathered: GatheredRows,
    kind: Family,
    colour: Colour,
    shown_as: Sequence[Colour],
    say: Say,
) -> _ColouredCells:
    """Cut all cells in a colour treatment, and once more in each of `shown_as`."""
    profiles = profiles_of(gathered, colour)
    cells = cut_cells(gathered, kind, say, profiles=profiles)
    rows = [*gathered.parts["train"], *gathered.parts["val"]]
    evaluated = {}
    for look in dict.fromkeys((colour, *shown_as)):
        own = profiles_of(gathered, look)
        evaluated[look] = clips_of(
            "cells4", rows, "val", kind.size_px, kind.context, own
        )
    return _ColouredCells(colour, gathered.task, cells, evaluated)


def _fit_without(
    domain: str,
    norm: str,
    coloured: _ColouredCells,
    request: TrainingRequest,
    kind: Family,
) -> LeftOut:
    """Fit a model to all domains but one, and evaluate it on that one."""
    plan, sampling = request.plan, coloured.cells.sampling
    network = dict(kind.network) | ({"norm": norm} if norm != "none" else {})
    torch.manual_seed(plan.seed)
    stock = _without(sampling.stock, domain)
    graph = new_classifier(
        request.family, len(TASKS[coloured.task]), network, standardise(stock)
    )
    val = _without(coloured.cells.val, domain)
    fitted = train_classifier(graph, replace(sampling, stock=stock), val, plan)
    away = {
        colour: evaluate(fitted.model, _only(clips, domain))
        for colour, clips in coloured.evaluated.items()
    }
    own_colour = away.pop(coloured.colour)
    return LeftOut(
        family=request.family,
        norm=norm,
        colour=coloured.colour,
        domain=domain,
        balanced_accuracy=balanced_with_interval(own_colour),
        home=fitted.score,
        errors=_errors(evaluate(fitted.model, val), own_colour, plan.seed),
        seconds=round(fitted.seconds, 1),
        shown_as={
            colour: balanced_with_interval(other) for colour, other in away.items()
        },
    )


def _errors(
    home: Predictions, away: Predictions, seed: int
) -> tuple[float, float] | None:
    """Calibration errors on the domain left out, before and after a review.

    Before: with the temperature of the other domains. After: adapted to a hundred
    reviewed cells, drawn at random. Both are measured on the cells that were not
    reviewed; None where too few of them are left.
    """
    temperature = fit_temperature(home.logits, home.classes)
    predicted = log_probabilities(away.logits, temperature)
    order = np.random.default_rng(seed).permutation(len(predicted))
    reviewed, rest = order[:REVIEWED], order[REVIEWED:]
    if len(rest) < REVIEWED:
        return None
    fitted = fit_adaptation(predicted[reviewed], away.classes[reviewed])
    before, after = (
        expected_calibration_error(s[rest], away.classes[rest], 1.0)
        for s in (predicted, fitted.applied(predicted))
    )
    return round(before, 4), round(after, 4)


def _has(study: Study, family: str, norm: str, colour: str, domain: str) -> bool:
    done = {(c.family, c.norm, c.colour, c.domain) for c in study.left_out}
    return (family, norm, colour, domain) in done


def _without(clips: Clips, domain: str) -> Clips:
    """Clips of all other domains."""
    return clips.pick([i for i, row in enumerate(clips.rows) if row.domain != domain])


def _only(clips: Clips, domain: str) -> Clips:
    """Clips of one domain."""
    return clips.pick([i for i, row in enumerate(clips.rows) if row.domain == domain])


def balanced_with_interval(predicted: Predictions) -> Metric:
    """Balanced accuracy of the classes that occur, bootstrapped over groups."""
    named = predicted.logits.argmax(axis=1)
    return with_interval(
        lambda i: balanced_accuracy(named[i], predicted.classes[i]),
        predicted.of_rows("group").tolist(),
    )


def thin_labels(
    gathered: GatheredRows, plan: FitPlan, shares: Iterable[float], out: Path, say: Say
) -> None:
    """Fit a deep belief network to shares of the labels, pretrained and from scratch.

    Pretraining sees all cells of `train` without their labels, once.

    Parameters
    ----------
    gathered
        Cells; the models are evaluated on `test`.
    plan
        How long each is fitted to labels.
    shares
        Of the labelled cells, 0 to 1.
    out
        File of the study; what it holds already is not done again.
    say
        Shows a line.
    """
    study = _read_or_new(out)
    kind = CLASSIFIERS["dbn"]
    todo = [s for s in shares if s not in {point.share for point in study.efficiency}]
    cells = cut_cells(gathered, kind, say, is_enriched=False)
    torch.manual_seed(plan.seed)
    stock = cells.sampling.stock
    untrained = new_classifier(
        "dbn", len(TASKS[gathered.task]), kind.network, standardise(stock)
    )
    pretrained = copy.deepcopy(untrained)
    if isinstance(pretrained.network, DBN) and kind.pretrain is not None:
        draw = unlabelled(cells.sampling, pretrained, SINGLE_CPU)
        pretrain(pretrained.network, draw, kind.pretrain)

    def fitted_from(start: ClassifierGraph, share: float) -> Metric:
        sampling = replace(cells.sampling, stock=thinned(stock, share))
        fitted = train_classifier(copy.deepcopy(start), sampling, cells.val, plan)
        return balanced_with_interval(evaluate(fitted.model, cells.test))

    for share in todo:
        point = LabelEfficiency(
            share, fitted_from(pretrained, share), fitted_from(untrained, share)
        )
        study = msgspec.structs.replace(study, efficiency=(*study.efficiency, point))
        _write(out, study)
        say(str(point))
