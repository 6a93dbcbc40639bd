"""Draw figures of evaluated models, as PNG: one colour per family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from edge.artifacts.bundle import Metric
from training.metrics.held_out import Evaluated, Scores
from training.metrics.reliability import abstention, named_share, reliability
from training.reports import canvas


def performance(
    evaluated: Sequence[Evaluated],
    scores: Sequence[Scores],
    published: Mapping[str, tuple[float, float, float]],
) -> bytes:
    """Accuracy, precision and recall, the published ones hollow beside ours."""
    ours = [(s.accuracy, s.precision, s.balanced_accuracy) for s in scores]
    theirs = [published.get(model.family) for model in evaluated]
    floor = canvas.floor(
        [metric.low for row in ours for metric in row]
        + [value for row in theirs if row for value in row]
    )
    figure, panels = canvas.panels(1, 3, 4.2, share=True)
    styles = canvas.styles(evaluated)
    for k, title in enumerate(("accuracy", "precision (mean)", "recall (mean)")):
        axes = panels[k]
        for x, (style, mine, paper) in enumerate(
            zip(styles, ours, theirs, strict=True)
        ):
            canvas.bar(axes, x - 0.21, mine[k], floor, style, 0.36)
            if paper:
                height = paper[k] - floor
                axes.bar(x + 0.21, height, 0.36, floor, fill=False, ec=style.colour)
                canvas.write_above(axes, x + 0.21, paper[k], f"{paper[k]:.3f}")
        axes.set_title(title)
        names = [style.name for style in styles]
        axes.set_xticks(range(len(evaluated)), names, rotation=35, ha="right")
        axes.grid(visible=False, axis="x")
    canvas.share_axis(panels[0], "share", floor, 1.03)
    figure.supxlabel("filled: ours, with 95 % interval; hollow: published", fontsize=9)
    return canvas.png(figure)


def class_f1(evaluated: Sequence[Evaluated], scores: Sequence[Scores]) -> bytes:
    """F1 of each class; a class without cells is named as such."""
    known = [c.f1.low for s in scores for c in s.classes.values() if c]
    floor, width = canvas.floor(known), 0.8 / len(evaluated)
    figure, (axes,) = canvas.panels(1, 1, 4.2)
    styles = canvas.styles(evaluated)
    for index, (style, each) in enumerate(zip(styles, scores, strict=True)):
        axes.bar(0, 0, label=style.name, **canvas.fill(style))
        for k, class_scores in enumerate(each.classes.values()):
            if class_scores:
                x = k + (index - (len(evaluated) - 1) / 2) * width
                canvas.bar(axes, x, class_scores.f1, floor, style, width * 0.9)
    cells = {n: c.cells if c else "no" for n, c in scores[0].classes.items()}
    names = [f"{canvas.literal(name)}\n{count} cells" for name, count in cells.items()]
    axes.set_xticks(range(len(names)), names)
    axes.grid(visible=False, axis="x")
    canvas.share_axis(axes, "F1", floor, 1.03)
    return canvas.png(figure, explained=axes)


def confusion(evaluated: Sequence[Evaluated], scores: Sequence[Scores]) -> bytes:
    """One matrix per model: share of each true class, and the number of cells."""
    figure, panels = canvas.one_each(evaluated, 3.5)
    styles = canvas.styles(evaluated)
    for axes, style, model, each in zip(panels, styles, evaluated, scores, strict=True):
        total = each.confusion.sum(axis=1, keepdims=True)
        shares = each.confusion / np.maximum(total, 1)
        texts = [
            [f"{v:.2f}\n{n}" if t else "none" for v, n in zip(vs, ns, strict=True)]
            for vs, ns, t in zip(shares, each.confusion, total[:, 0], strict=True)
        ]
        canvas.heat(axes, shares, texts, model.labels, model.labels, 0.0)
        axes.set(title=style.name, xlabel="predicted", ylabel="true")
    return canvas.png(figure)


def calibration(evaluated: Sequence[Evaluated], scores: Sequence[Scores]) -> bytes:
    """One reliability diagram per model."""
    figure, panels = canvas.one_each(evaluated, 3.4)
    styles = canvas.styles(evaluated)
    for axes, style, model, each in zip(panels, styles, evaluated, scores, strict=True):
        confidence, accuracy, cells = reliability(model).T
        axes.plot([0, 1], [0, 1], color=canvas.INK, lw=0.8, ls=":")
        axes.plot(confidence, accuracy, color=style.colour, lw=1.2)
        area = 12 + 300 * cells / cells.sum()
        fill = canvas.fill(style, hatched=False)
        axes.scatter(confidence, accuracy, area, zorder=3, **fill)
        axes.set(xlim=(0, 1.05), ylim=(-0.05, 1.05))
        axes.set(xlabel="confidence", ylabel="accuracy")
        axes.set_title(f"{style.name}, ECE {each.calibration_error.value:.3f}")
    return canvas.png(figure)


def abstaining(evaluated: Sequence[Evaluated]) -> bytes:
    """Accuracy among the cells named, over the share of cells named."""
    figure, (axes,) = canvas.panels(1, 1, 4.2)
    accuracies, named_shares = [], [0.55]
    for model, style in zip(evaluated, canvas.styles(evaluated), strict=True):
        curve = abstention(model)
        axes.plot(*curve.T, color=style.colour, ls=style.line, label=style.name)
        accuracies.append(float(curve[curve[:, 0] >= 0.5, 1].min()))
        share, right = named_share(model)
        if right is not None:
            ink, form = canvas.INK, style.marker
            axes.plot(share, right, form, color=style.colour, mec=ink, ms=8)
            accuracies.append(right)
            named_shares.append(share)
    left, floor = canvas.floor(named_shares), canvas.floor(accuracies)
    axes.set_xlim(left, 1.005)
    axes.set_xlabel(canvas.ranged("share of cells named", left))
    canvas.share_axis(axes, "accuracy among them", floor, 1.005)
    return canvas.png(figure, explained=axes)


def domain_matrix(evaluated: Sequence[Evaluated], scores: Sequence[Scores]) -> bytes:
    """Balanced accuracy of each model on each domain; unseen domains outlined."""
    domains = list(scores[0].domains)
    values = np.array([[s.domains[d].value for d in domains] for s in scores])
    unseen = np.array([[d not in j.trained_on for d in domains] for j in evaluated])
    texts = [[f"{value:.3f}" for value in row] for row in values]
    names = [style.name for style in canvas.styles(evaluated)]
    floor = canvas.floor(values.flat)
    figure, (axes,) = canvas.panels(1, 1, 1.1 + 0.5 * len(evaluated))
    canvas.heat(axes, values, texts, names, domains, floor, unseen)
    axes.set_xlabel(canvas.ranged("colour: balanced accuracy", floor))
    return canvas.png(figure)


def robustness(evaluated: Sequence[Evaluated]) -> bytes:
    """Balanced accuracy on crops that are turned or blurred."""
    tests = {
        "rotation (degrees)": [j.robustness.rotation for j in evaluated],
        "blur (sigma, px)": [j.robustness.blur for j in evaluated],
    }
    tests = {title: curves for title, curves in tests.items() if any(curves)}
    floor = canvas.floor(v for cs in tests.values() for c in cs for v in c.values())
    figure, panels = canvas.panels(1, len(tests), 4.2, share=True)
    for axes, (title, curves) in zip(panels, tests.items(), strict=True):
        for curve, style in zip(curves, canvas.styles(evaluated), strict=True):
            points = np.array(sorted(curve.items())).reshape(-1, 2).T
            form = f"{style.marker}{style.line}"
            axes.plot(*points, form, color=style.colour, ms=5, label=style.name)
        axes.set_xlabel(title)
    canvas.share_axis(panels[0], "balanced accuracy", floor, 1.01)
    return canvas.png(figure, explained=panels[0])


def speed(evaluated: Sequence[Evaluated], scores: Sequence[Scores]) -> bytes:
    """Accuracy against time per cell; the area of a marker is the parameters."""
    floor = canvas.floor([s.accuracy.low for s in scores])
    largest = max(1, *(j.cost.parameters for j in evaluated))
    figure, (axes,) = canvas.panels(1, 1, 4.2)
    for model, style, each in zip(
        evaluated, canvas.styles(evaluated), scores, strict=True
    ):
        parameters, time_ms = model.cost.parameters, model.cost.ms_per_cell
        area, fill = 20 + 900 * parameters / largest, canvas.fill(style, hatched=False)
        metric, name = each.accuracy, f"{style.name}, {si(parameters)}"
        axes.scatter(time_ms, metric.value, area, marker=style.marker, zorder=3, **fill)
        ink, low, high = canvas.INK, metric.low, metric.high
        axes.vlines(time_ms, low, high, color=ink, lw=1.2, zorder=4)
        name += "" if time_ms > 0 else ", not measured"
        axes.plot([], [], style.marker, color=style.colour, label=name)
    canvas.log_axis(axes, [j.cost.ms_per_cell for j in evaluated])
    axes.set_xlabel("time per cell, one at a time (ms, logarithmic)")
    canvas.share_axis(axes, "accuracy", floor, 1.01)
    return canvas.png(figure, explained=axes)


def durations(evaluated: Sequence[Evaluated]) -> bytes:
    """Seconds of training and of testing, as bars over a logarithmic scale."""
    styles = canvas.styles(evaluated)
    figure, panels = canvas.panels(1, 2, 1.4 + 0.4 * len(evaluated), share=True)
    training = [model.cost.training_s for model in evaluated]
    test = [model.cost.test_s for model in evaluated]
    for axes, title, times in zip(
        panels, ("training", "test, all cells"), (training, test), strict=True
    ):
        start = canvas.log_axis(axes, times)
        for y, (style, time_s) in enumerate(zip(styles, times, strict=True)):
            texts, end = "not measured", start
            if time_s > 0:
                texts, end = f"{time_s:,.4g} s", time_s
                axes.barh(y, end - start, 0.6, start, **canvas.fill(style))
            axes.text(1.05 * end, y, texts, va="center", fontsize=8)
        axes.set_yticks(range(len(styles)), [style.name for style in styles])
        axes.set(title=title, xlabel="seconds (logarithmic)")
        axes.grid(visible=False, axis="y")
    panels[0].invert_yaxis()
    return canvas.png(figure)


def left_out(
    rows: Sequence[str], domains: Sequence[str], accuracies: NDArray[np.float64]
) -> bytes:
    """Balanced accuracy (R, D, 2) on the domain left out and at home; NaN: not run."""
    texts = [
        ["not run" if np.isnan(v) else f"{v:.3f}\n(home {h:.3f})" for v, h in pairs]
        for pairs in accuracies
    ]
    away = accuracies[..., 0]
    figure, (axes,) = canvas.panels(1, 1, 1.1 + 0.6 * len(rows))
    floor = canvas.floor(away.flat)
    canvas.heat(axes, away, texts, rows, domains, floor)
    axes.set_xlabel(canvas.ranged("domain left out; colour: balanced accuracy", floor))
    return canvas.png(figure)


def label_efficiency(
    shares: Sequence[float], lines: Mapping[str, Sequence[Metric]]
) -> bytes:
    """Balanced accuracy of the DBN over the share of labels that was used."""
    floor = canvas.floor([m.low for line in lines.values() for m in line])
    figure, (axes,) = canvas.panels(1, 1, 3.8)
    for index, (name, line) in enumerate(lines.items()):
        value, low, high = np.array([(m.value, m.low, m.high) for m in line]).T
        beside = (
            np.array(shares) * 1.03**index
        )  # so that whiskers do not cover each other
        form = f"{canvas.MARKERS[index]}{canvas.LINES[index]}"
        colour = (canvas.family_colour("dbn"), canvas.INK)[index % 2]
        axes.plot(beside, value, form, color=colour, ms=5, label=name)
        axes.vlines(beside, low, high, color=colour, lw=1.2)
    axes.set_xscale("log")
    axes.set_xticks(list(shares), [f"{100 * share:g} %" for share in shares])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("labels used (logarithmic)")
    canvas.share_axis(axes, "balanced accuracy", floor, 1.01)
    return canvas.png(figure, explained=axes)


def si(number: float) -> str:
    """Round to three digits with k, M, G or T: 14.7 M."""
    for letter, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.3g}"
