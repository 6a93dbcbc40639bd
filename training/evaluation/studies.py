"""Studies: many short trainings that show what helps, written down as they come."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
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
from training.data.clips import Clips
from training.data.colour_normalisation import COLOURS, Colour
from training.data.rows import DataInvalid
from training.fitting.classifier import (
    Predictions,
    judge,
    standardise,
    train_classifier,
)
from training.fitting.dbn_pretraining import pretrain
from training.fitting.device import ALONE
from training.fitting.families import CLASSIFIERS, new_classifier
from training.fitting.loop import FitPlan
from training.fitting.model_graphs import ClassifierGraph
from training.metrics.bootstrap import balanced_accuracy, with_interval
from training.models.dbn import DBN
from training.models.layers import NORMS, Norm
from training.reports.comparison_report import LabelEfficiency, LeftOut
from training.sessions.classifier_session import TrainingRequest, thinned, unlabelled
from training.sessions.gathering import GatheredRows, clips_of, cut_cells, profiles_of

Say = Callable[[str], None]


class Study(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file of finished trainings."""

    left_out: tuple[LeftOut, ...] = ()
    efficiency: tuple[LabelEfficiency, ...] = ()


def read_study(path: Path) -> Study:
    """Read a study; raises `ConfigurationInvalid` where it is none."""
    return read_json(path, Study)


def _write(path: Path, study: Study) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(encode(study)) + b"\n")


def leave_out(
    gathered: GatheredRows,
    wish: TrainingRequest,
    domains: Sequence[str],
    out: Path,
    say: Say,
    norms: Sequence[Norm] = NORMS[:2],
    colours: Sequence[Colour] = COLOURS,
    shown_as: Sequence[Colour] = (),
) -> None:
    """Fit a family without each domain in turn, and judge it on that domain.

    What `out` holds already is not done again.

    Parameters
    ----------
    gathered
        Cells of task `cells4`. The left-out ones are those of `train` and `val`.
    wish
        The family, its network and plan; nothing is pretrained.
    domains
        Each is left out once.
    out
        File of the study.
    say
        Shows a line.
    norms
        Of a family that has any.
    colours
        What all domains are brought to.
    shown_as
        What the domain left out is also brought to, to be judged by the same model.

    Raises
    ------
    DataInvalid
        There are no cells of a domain.
    """
    known = {row.domain for part in gathered.parts.values() for row, _ in part}
    if not set(domains) <= known:
        raise DataInvalid(
            f"domains {sorted(set(domains) - known)} have no cells, expected some of "
            f"{sorted(known)}"
        )
    study = read_study(out) if out.exists() else Study()
    family, plan = wish.family, wish.plan
    kind = replace(CLASSIFIERS[family], network=wish.network)
    tried: Sequence[str] = norms if "norm" in kind.network else ("none",)
    for colour in colours:
        todo = [
            (domain, norm)
            for domain in domains
            for norm in tried
            if not _has(study, family, norm, colour, domain)
        ]
        if not todo:
            continue
        profiles = profiles_of(gathered, colour)
        cells = cut_cells(gathered, kind, say, profiles=profiles)
        seen = [*gathered.parts["train"], *gathered.parts["val"]]
        strange = {
            look: clips_of("cells4", seen, "val", kind.size_px, kind.context, own)
            for look in dict.fromkeys((colour, *shown_as))
            for own in [profiles_of(gathered, look)]
        }
        for domain, norm in todo:
            network = dict(kind.network) | ({"norm": norm} if norm != "none" else {})
            torch.manual_seed(plan.seed)
            stock = _where(cells.drawing.stock, lambda d, domain=domain: d != domain)  # type: ignore[misc]
            graph = new_classifier(
                family, len(TASKS[gathered.task]), network, standardise(stock)
            )
            held = _where(cells.val, lambda d, domain=domain: d != domain)  # type: ignore[misc]
            fitted = train_classifier(
                graph, replace(cells.drawing, stock=stock), held, plan
            )
            predicted = {
                look: judge(
                    fitted.model,
                    _where(clips, lambda d, domain=domain: d == domain),  # type: ignore[misc]
                )
                for look, clips in strange.items()
            }
            away = predicted.pop(colour)
            cell = LeftOut(
                family=family,
                norm=norm,
                colour=colour,
                domain=domain,
                balanced_accuracy=balanced_with_interval(away),
                home=fitted.score,
                errors=_errors(judge(fitted.model, held), away, plan.seed),
                seconds=round(fitted.seconds, 1),
                shown_as={
                    look: balanced_with_interval(s) for look, s in predicted.items()
                },
            )
            study = msgspec.structs.replace(study, left_out=(*study.left_out, cell))
            _write(out, study)
            say(f"{family} {norm} {colour} without {domain}: {cell}")


def _errors(
    home: Predictions, away: Predictions, seed: int
) -> tuple[float, float] | None:
    """Calibration errors on strange cells: as fitted at home, and after a review.

    Of a hundred cells, drawn as they come; the errors are those of the others.
    """
    temperature = fit_temperature(home.logits, home.classes)
    predicted = log_probabilities(away.logits, temperature)
    drawn = np.random.default_rng(seed).permutation(len(predicted))
    reviewed, rest = drawn[:REVIEWED], drawn[REVIEWED:]
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


def _where(clips: Clips, is_kept: Callable[[str], bool]) -> Clips:
    return clips.pick([i for i, row in enumerate(clips.rows) if is_kept(row.domain)])


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
        Cells; judged on `test`.
    plan
        How long each is fitted to labels.
    shares
        0 to 1.
    out
        File of the study; what it holds already is not done again.
    say
        Shows a line.
    """
    study = read_study(out) if out.exists() else Study()
    kind = CLASSIFIERS["dbn"]
    todo = [s for s in shares if s not in {point.share for point in study.efficiency}]
    cells = cut_cells(gathered, kind, say, is_enriched=False)
    torch.manual_seed(plan.seed)
    scratch = new_classifier(
        "dbn", len(TASKS[gathered.task]), kind.network, standardise(cells.drawing.stock)
    )
    taught = copy.deepcopy(scratch)
    if isinstance(taught.network, DBN) and kind.pretrain is not None:
        pretrain(
            taught.network, unlabelled(cells.drawing, taught, ALONE), kind.pretrain
        )

    def reached(begin: ClassifierGraph, share: float) -> Metric:
        drawing = replace(cells.drawing, stock=thinned(cells.drawing.stock, share))
        fitted = train_classifier(copy.deepcopy(begin), drawing, cells.val, plan)
        return balanced_with_interval(judge(fitted.model, cells.test))

    for share in todo:
        point = LabelEfficiency(share, reached(taught, share), reached(scratch, share))
        study = msgspec.structs.replace(study, efficiency=(*study.efficiency, point))
        _write(out, study)
        say(str(point))
