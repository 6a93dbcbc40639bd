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
    InferenceCost,
    NotJudgeable,
    Robustness,
    confusions,
    decisions_of,
    score,
)
from training.metrics.reliability import abstention, named_share, reliability

LABELS = ("RBC", "WBC", "Platelet", "Plasma")


@pytest.fixture
def judged(random: np.random.Generator) -> Evaluated:
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


def sure_of(judged: Evaluated, names: list[int], classes: list[int]) -> Evaluated:
    """A model that says `names`, one cell per slide."""
    return replace(
        judged,
        logits=(5 * np.eye(len(LABELS))[names]).astype(np.float32),
        classes=np.array(classes),
        domains=np.array(["chula"] * len(names)),
        groups=np.array([f"slide-{i}" for i in range(len(names))]),
    )


def test_four_cells_give_what_a_hand_gets(judged: Evaluated) -> None:
    """RBC: 1 of 2 found, its name once true; WBC: 2 of 2 found, its name 2 of 3."""
    confusion = confusions(sure_of(judged, [0, 1, 1, 1], [0, 0, 1, 1])).sum(axis=0)

    np.testing.assert_array_equal(confusion[:2, :2], [[1, 1], [0, 2]])
    assert accuracy_of(confusion) == 0.75
    np.testing.assert_allclose(recalls(confusion), [0.5, 1, np.nan, np.nan])
    np.testing.assert_allclose(precisions(confusion), [1, 2 / 3, np.nan, np.nan])
    np.testing.assert_allclose(f1s(confusion), [2 / 3, 0.8, np.nan, np.nan])


def test_figures_agree_with_torchmetrics(judged: Evaluated) -> None:
    scores = score(judged)
    pair = torch.from_numpy(judged.logits), torch.from_numpy(judged.classes)

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


def test_the_calibration_error_is_that_of_calibration(judged: Evaluated) -> None:
    expected = expected_calibration_error(
        judged.logits, judged.classes, judged.temperature
    )

    assert score(judged).calibration_error.value == pytest.approx(expected, abs=1e-4)
    confidence, right, cells = reliability(judged).T
    assert cells.sum() == len(judged.classes)
    gap = np.abs(confidence - right) @ cells / cells.sum()
    assert gap == pytest.approx(expected, abs=1e-6)


def test_the_fast_interval_is_that_of_the_slow_way(judged: Evaluated) -> None:
    names = decisions_of(judged).classes
    slow = with_interval(
        lambda rows: balanced_accuracy(names[rows], judged.classes[rows]),
        judged.groups.tolist(),
        draws=200,
    )

    fast = estimate(
        lambda c: np.nanmean(recalls(c), axis=-1), confusions(judged), 600, draws=200
    )

    assert fast == slow


def test_every_interval_holds_its_value(judged: Evaluated) -> None:
    scores = score(judged, [("raabin", "Platelet")])
    metrics = [getattr(scores, name) for name in scores.__slots__]
    metrics += [*scores.domains.values(), *scores.spared.values()]
    metrics += [
        getattr(c, name)
        for c in scores.classes.values()
        for name in ("precision", "recall", "f1")
    ]
    found = [m for m in metrics if isinstance(m, Metric)]

    assert len(found) == 5 + 3 + 1 + 12
    assert all(0 <= m.low <= m.value <= m.high <= 1 for m in found)


def test_a_class_that_does_not_occur_has_no_figures(judged: Evaluated) -> None:
    scores = score(sure_of(judged, [0, 1, 2], [0, 1, 1]))

    assert scores.classes["Platelet"] is None
    assert scores.classes["Plasma"] is None
    assert scores.balanced_accuracy.value == 0.75


def test_a_class_that_is_never_said_has_precision_zero(judged: Evaluated) -> None:
    found = score(sure_of(judged, [0, 0], [0, 1])).classes["WBC"]

    assert found is not None
    assert found.precision.value == found.recall.value == found.f1.value == 0


def test_excluded_labels_count_in_no_other_domain(judged: Evaluated) -> None:
    scores = score(judged, [("raabin", "Platelet")])
    kept = (judged.domains == "raabin") & (judged.classes != LABELS.index("Platelet"))
    expected = balanced_accuracy(
        decisions_of(judged).classes[kept], judged.classes[kept]
    )

    assert list(scores.spared) == ["raabin"]
    spared = scores.spared["raabin"]
    assert spared is not None
    assert spared.value == pytest.approx(expected, abs=1e-4)
    assert spared.rows == kept.sum()
    assert scores.domains == score(judged).domains


def test_a_domain_without_any_kept_cell_is_said_to_have_none(judged: Evaluated) -> None:
    pair = sure_of(judged, [0, 1], [0, 1])

    assert score(pair, [("chula", "RBC"), ("chula", "WBC")]).spared == {"chula": None}


def test_abstaining_trades_cells_for_accuracy(judged: Evaluated) -> None:
    shares, right = abstention(judged).T
    share, accuracy = named_share(judged)

    assert (np.diff(shares) > 0).all()
    assert shares[-1] == 1
    assert right[-1] == pytest.approx(score(judged).accuracy.value, abs=1e-4)
    assert right[shares == share] == accuracy
    assert accuracy is not None
    assert accuracy > right[-1]


def test_cells_of_equal_confidence_are_named_together(judged: Evaluated) -> None:
    curve = abstention(sure_of(judged, [0, 1, 1, 1], [0, 0, 1, 1]))

    np.testing.assert_array_equal(curve, [[1, 0.75]])


def test_a_model_that_names_nothing_has_no_accuracy(judged: Evaluated) -> None:
    assert named_share(replace(judged, abstain_below=1.1)) == (0, None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"groups": np.array(["one"])}, r"\(600, 600, 1\), expected 600"),
        ({"labels": LABELS[:3]}, "4 logits and classes 0 to 3, expected 3"),
        ({"logits": np.full((600, 4), np.nan, np.float32)}, "cell 0 has logits .nan"),
    ],
)
def test_outputs_that_do_not_fit_the_labels_are_refused(
    judged: Evaluated, change: dict[str, object], words: str
) -> None:
    with pytest.raises(NotJudgeable, match=words):
        replace(judged, **change)  # type: ignore[arg-type]


def test_a_confusion_has_a_row_per_true_class() -> None:
    true, predicted = np.array([0, 0, 0, 2]), np.array([0, 0, 1, 0])

    assert count_confusion(true, predicted, 3).tolist() == [
        [2, 1, 0],
        [0] * 3,
        [1, 0, 0],
    ]
