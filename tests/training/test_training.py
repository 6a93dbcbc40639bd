"""Fitting works from manifest to bundle, on a small laboratory of simulated fields."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from edge.bundle import load_bundle
from edge.cli import hemascope
from training.families import CLASSIFIERS, LOCATOR_PLANS
from training.fit import Plan, fit
from training.runs import load_held, load_record
from training.simulated import DOMAIN, simulated_crops, simulated_fields
from training.statistics import balanced_accuracy, with_interval

SHORT = Plan(epochs=2, steps_per_epoch=4, learning_rate=3e-3, weight_decay=1e-2, seed=0)


def test_the_best_moving_average_is_kept() -> None:
    """y = 3x is found; the model that is returned is the one of the best score."""
    x = torch.linspace(-1, 1, 64)[:, None]
    model = torch.nn.Linear(1, 1)

    def loss(model: torch.nn.Linear, random: torch.Generator) -> torch.Tensor:
        picked = torch.randint(0, 64, (16,), generator=random)
        return ((model(x[picked]) - 3 * x[picked]) ** 2).mean()

    def score(model: torch.nn.Linear) -> tuple[float, str]:
        return -abs(model.weight.item() - 3), ""

    fitted = fit(model, loss, score, Plan(20, 30, 0.1, 0.0, seed=1))

    assert fitted.model.weight.item() == pytest.approx(3, abs=0.05)
    assert fitted.score == -abs(fitted.model.weight.item() - 3)
    assert 1 <= fitted.epoch <= 20


def test_the_same_seed_gives_the_same_weights() -> None:
    def train() -> float:
        torch.manual_seed(0)
        fitted = fit(
            torch.nn.Linear(3, 1),
            lambda m, r: m(torch.randn(8, 3, generator=r)).pow(2).mean(),
            lambda m: (0.0, ""),
            SHORT,
        )
        return float(fitted.model.weight.detach().sum())

    assert train() == train()


def test_an_interval_holds_its_value_and_narrows_with_more_groups() -> None:
    random = np.random.default_rng(0)
    right = random.random(400) < 0.9

    def interval(groups: int) -> tuple[float, float]:
        names = [f"g{i % groups}" for i in range(400)]
        metric = with_interval(lambda i: float(right[i].mean()), names)
        assert metric.low <= metric.value <= metric.high
        assert metric.value == pytest.approx(right.mean(), abs=1e-4)
        return metric.low, metric.high

    low, high = interval(400)
    binomial = 1.96 * np.sqrt(0.9 * 0.1 / 400)
    assert (high - low) / 2 == pytest.approx(binomial, rel=0.25)


def test_balanced_accuracy_is_the_mean_recall() -> None:
    classes = np.array([0, 0, 0, 0, 1, 1])

    assert balanced_accuracy(np.array([0, 0, 0, 1, 1, 0]), classes) == (0.75 + 0.5) / 2


def test_simulated_slides_hold_every_class_in_many_colours() -> None:
    fields = simulated_fields(6, ("RBC", "WBC", "Platelet"))
    crops = simulated_crops(6, 32, 1.3)

    for field in fields:
        assert set(field.classes.tolist()) == {0, 1, 2}
        assert field.is_complete
    backgrounds = np.array([np.median(f.pixels.reshape(-1, 3), axis=0) for f in fields])
    assert backgrounds.std(axis=0).max() > 5
    assert set(crops.classes.tolist()) == {0, 1, 2, 3}
    assert {row.domain for row in crops.rows} == {DOMAIN}
    assert len(crops.rows) == len(crops.pixels) == len(crops.classes)


def invoke(*arguments: str | Path) -> str:
    result = CliRunner().invoke(hemascope, [str(a) for a in arguments])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result.output


@pytest.fixture
def short_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CLASSIFIERS["inception"].plans, "quick", SHORT)
    monkeypatch.setitem(LOCATOR_PLANS, "quick", SHORT)
    monkeypatch.setattr("training.commands.SLIDES", 2)


@pytest.mark.usefixtures("short_plans")
@pytest.mark.parametrize("family", ["inception", "locator"])
def test_from_manifest_to_bundle(family: str, manifest: Path, tmp_path: Path) -> None:
    run, bundle_folder = tmp_path / "run", tmp_path / "bundle"

    invoke("train", family, "--data", manifest, "--out", run)
    invoke("export", run, bundle_folder, "--name", "trial")

    record = load_record(run)
    assert record.training.licences == {"MIT": record.training.rows}
    assert record.metrics
    assert (load_held(run) is None) == (family == "locator")
    bundle = load_bundle(bundle_folder)
    assert bundle.record.training == record.training
    option = "--locator" if family == "locator" else "--bundle"
    shown = invoke("evaluate", "--data", manifest, option, bundle_folder)
    assert "whole fields" in shown
    assert "crops of labelled boxes" in shown


@pytest.mark.usefixtures("short_plans")
def test_a_domain_can_be_left_out(manifest: Path, tmp_path: Path) -> None:
    invoke(
        "train",
        "inception",
        "--data",
        manifest,
        "--out",
        tmp_path,
        "--without",
        "giemsa",
    )

    assert "giemsa" not in load_record(tmp_path).training.domains


def test_data_without_a_free_licence_are_refused(
    manifest: Path, tmp_path: Path
) -> None:
    text = manifest.read_text().replace(",MIT,", ",CC-BY-NC,")
    other = manifest.with_name("locked.csv")
    other.write_text(text)

    result = CliRunner().invoke(
        hemascope, ["train", "inception", "--data", str(other), "--out", str(tmp_path)]
    )

    assert result.exit_code != 0
    assert "licence" in str(result.exception)
