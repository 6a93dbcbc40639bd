"""Figures of merit agree with hand, with torchmetrics and with the slow way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_f1_score,
    multiclass_precision,
)

from calibration.confidence import expected_calibration_error
from edge.artifacts.bundle import Metric
from training.metrics.bootstrap import balanced_accuracy, estimate, with_interval
from training.metrics.confusion import accuracy as accuracy_of
from training.metrics.confusion import count_confusion, f1s, precisions, recalls
from training.metrics.held_out import (
    Evaluated,
    EvaluationRefused,
    InferenceCost,
    Robustness,
    confusions,
    decisions_of,
    score,
)
from training.metrics.reliability import abstention, named_share, reliability

LABELS = ("RBC", "WBC", "Platelet", "Plasma")


@pytest.fixture
def evaluated(random: np.random.Generator) -> Evaluated:
    """Six hundred cells of three laboratories, five slides each."""
    classes = random.choice(4, 600, p=[0.5, 0.3, 0.15, 0.05]).astype(np.int64)
    domains = np.array(["chula", "elsafty", "raabin"])[random.integers(0, 3, 600)]
    slides = random.integers(0, 5, 600).astype(str)
    logits = random.normal(0, 1, (600, 4)).astype(np.float32)
    logits[np.arange(600), classes] += 1.5
    return Evaluated(
        name="VGG16",
        family="vgg16",
        labels=LABELS,
        logits=logits,
        classes=classes,
        domains=domains,
        groups=np.char.add(domains, slides),
        temperature=1.3,
        abstain_below=0.6,
        trained_on=("chula", "elsafty"),
        cost=InferenceCost(1000, 20_000, 60.0, 2.0, 0.5, 100.0),
        robustness=Robustness({}, {}),
    )


def sure_of(evaluated: Evaluated, names: list[int], classes: list[int]) -> Evaluated:
    """A model that says `names`, one cell per slide."""
    return replace(
        evaluated,
        logits=(5 * np.eye(len(LABELS))[names]).astype(np.float32),
        classes=np.array(classes),
        domains=np.array(["chula"] * len(names)),
        groups=np.array([f"slide-{i}" for i in range(len(names))]),
    )


def test_four_cells_give_what_a_hand_gets(evaluated: Evaluated) -> None:
    """RBC: 1 of 2 found, its name once true; WBC: 2 of 2 found, its name 2 of 3."""
    confusion = confusions(sure_of(evaluated, [0, 1, 1, 1], [0, 0, 1, 1])).sum(axis=0)

    np.testing.assert_array_equal(confusion[:2, :2], [[1, 1], [0, 2]])
    assert accuracy_of(confusion) == 0.75
    np.testing.assert_allclose(recalls(confusion), [0.5, 1, np.nan, np.nan])
    np.testing.assert_allclose(precisions(confusion), [1, 2 / 3, np.nan, np.nan])
    np.testing.assert_allclose(f1s(confusion), [2 / 3, 0.8, np.nan, np.nan])


def test_figures_agree_with_torchmetrics(evaluated: Evaluated) -> None:
    scores = score(evaluated)
    pair = torch.from_numpy(evaluated.logits), torch.from_numpy(evaluated.classes)

    def expected(of: object, average: str) -> object:
        return of(*pair, num_classes=4, average=average).numpy()  # type: ignore[operator]

    assert scores.accuracy.value == pytest.approx(
        expected(multiclass_accuracy, "micro"), abs=1e-4
    )
    assert scores.balanced_accuracy.value == pytest.approx(
        expected(multiclass_accuracy, "macro"), abs=1e-4
    )
    assert scores.precision.value == pytest.approx(
        expected(multiclass_precision, "macro"), abs=1e-4
    )
    each = [c.f1.value for c in scores.classes.values() if c]
    np.testing.assert_allclose(each, expected(multiclass_f1_score, "none"), atol=1e-4)


def test_the_calibration_error_is_that_of_calibration(evaluated: Evaluated) -> None:
    expected = expected_calibration_error(
        evaluated.logits, evaluated.classes, evaluated.temperature
    )

    assert score(evaluated).calibration_error.value == pytest.approx(expected, abs=1e-4)
    confidence, right, cells = reliability(evaluated).T
    assert cells.sum() == len(evaluated.classes)
    gap = np.abs(confidence - right) @ cells / cells.sum()
    assert gap == pytest.approx(expected, abs=1e-6)


def test_the_fast_interval_is_that_of_the_slow_way(evaluated: Evaluated) -> None:
    names = decisions_of(evaluated).classes
    slow = with_interval(
        lambda rows: balanced_accuracy(names[rows], evaluated.classes[rows]),
        evaluated.groups.tolist(),
        draws=200,
    )

    fast = estimate(
        lambda c: np.nanmean(recalls(c), axis=-1), confusions(evaluated), 600, draws=200
    )

    assert fast == slow


def test_every_interval_holds_its_value(evaluated: Evaluated) -> None:
    scores = score(evaluated, [("raabin", "Platelet")])
    metrics = [getattr(scores, name) for name in scores.__slots__]
    metrics += [*scores.domains.values(), *scores.without_excluded.values()]
    metrics += [
        getattr(c, name)
        for c in scores.classes.values()
        for name in ("precision", "recall", "f1")
    ]
    found = [m for m in metrics if isinstance(m, Metric)]

    assert len(found) == 5 + 3 + 1 + 12
    assert all(0 <= m.low <= m.value <= m.high <= 1 for m in found)


def test_a_class_that_does_not_occur_has_no_figures(evaluated: Evaluated) -> None:
    scores = score(sure_of(evaluated, [0, 1, 2], [0, 1, 1]))

    assert scores.classes["Platelet"] is None
    assert scores.classes["Plasma"] is None
    assert scores.balanced_accuracy.value == 0.75


def test_a_class_that_is_never_said_has_precision_zero(evaluated: Evaluated) -> None:
    found = score(sure_of(evaluated, [0, 0], [0, 1])).classes["WBC"]

    assert found is not None
    assert found.precision.value == found.recall.value == found.f1.value == 0


def test_excluded_labels_count_in_no_other_domain(evaluated: Evaluated) -> None:
    scores = score(evaluated, [("raabin", "Platelet")])
    kept = (evaluated.domains == "raabin") & (
        evaluated.classes != LABELS.index("Platelet")
    )
    expected = balanced_accuracy(
        decisions_of(evaluated).classes[kept], evaluated.classes[kept]
    )

    assert list(scores.without_excluded) == ["raabin"]
    without_excluded = scores.without_excluded["raabin"]
    assert without_excluded is not None
    assert without_excluded.value == pytest.approx(expected, abs=1e-4)
    assert without_excluded.rows == kept.sum()
    assert scores.domains == score(evaluated).domains


def test_a_domain_without_any_kept_cell_is_said_to_have_none(
    evaluated: Evaluated,
) -> None:
    pair = sure_of(evaluated, [0, 1], [0, 1])

    assert score(pair, [("chula", "RBC"), ("chula", "WBC")]).without_excluded == {
        "chula": None
    }


def test_abstaining_trades_cells_for_accuracy(evaluated: Evaluated) -> None:
    shares, right = abstention(evaluated).T
    share, accuracy = named_share(evaluated)

    assert (np.diff(shares) > 0).all()
    assert shares[-1] == 1
    assert right[-1] == pytest.approx(score(evaluated).accuracy.value, abs=1e-4)
    assert right[shares == share] == accuracy
    assert accuracy is not None
    assert accuracy > right[-1]


def test_cells_of_equal_confidence_are_named_together(evaluated: Evaluated) -> None:
    curve = abstention(sure_of(evaluated, [0, 1, 1, 1], [0, 0, 1, 1]))

    np.testing.assert_array_equal(curve, [[1, 0.75]])


def test_a_model_that_names_nothing_has_no_accuracy(evaluated: Evaluated) -> None:
    assert named_share(replace(evaluated, abstain_below=1.1)) == (0, None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"groups": np.array(["one"])}, r"\(600, 600, 1\), expected 600"),
        ({"labels": LABELS[:3]}, "4 logits and classes 0 to 3, expected 3"),
        ({"logits": np.full((600, 4), np.nan, np.float32)}, "cell 0 has logits .nan"),
    ],
)
def test_outputs_that_do_not_fit_the_labels_are_refused(
    evaluated: Evaluated, change: dict[str, object], words: str
) -> None:
    with pytest.raises(EvaluationRefused, match=words):
        replace(evaluated, **change)  # type: ignore[arg-type]


def test_a_confusion_has_a_row_per_true_class() -> None:
    true, predicted = np.array([0, 0, 0, 2]), np.array([0, 0, 1, 0])

    assert count_confusion(true, predicted, 3).tolist() == [
        [2, 1, 0],
        [0] * 3,
        [1, 0, 0],
    ]
