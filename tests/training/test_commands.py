"""From data to bundle and report, on a small laboratory of simulated fields."""

from __future__ import annotations

import copy
import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import msgspec
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from calibration.int8 import Int8Crops
from edge.artifacts.bundle import INT8_CROPS, crop_size, first_state, load_bundle
from edge.cli.main import hemascope
from edge.engines import BATCH, STATE
from edge.engines.onnxruntime import OnnxRuntimeEngine
from edge.engines.opening import open_engine
from edge.settings.models import PRECISIONS, EngineSettings, Precision
from edge.slide.confusion_correction import read_confusion
from edge.taxonomy import TASKS
from export.benchmark.engine_build import build_without_gpu
from export.onnx import ExportFailed
from export.parity import ParityRefused
from training.choices import FAMILIES, PRESETS
from training.evaluation.studies import read_study
from training.fitting.checkpoint import FILE
from training.fitting.families import CLASSIFIERS, LOCATOR_PLANS
from training.fitting.loop import FitPlan
from training.fitting.model_graphs import ClassifierGraph, TorchEngine
from training.sessions.run_folder import graph_of, load_held, load_record, load_weights

SHORT = FitPlan(
    epochs=2,
    steps_per_epoch=3,
    learning_rate=3e-3,
    weight_decay=1e-2,
    seed=0,
    batch=12,
)
STILL = [family for family in CLASSIFIERS if family != "rnn"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(hemascope, [str(a) for a in arguments])


def invoke(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result.output


@pytest.fixture(scope="module", autouse=True)
def _short_plans() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for family in CLASSIFIERS:
            patch.setitem(CLASSIFIERS[family].plans, "quick", SHORT)
        dbn = CLASSIFIERS["dbn"]
        assert dbn.pretrain is not None
        brief = replace(dbn, pretrain=replace(dbn.pretrain, steps=3, batch=8))
        patch.setitem(CLASSIFIERS, "dbn", brief)
        patch.setitem(LOCATOR_PLANS, "quick", SHORT)
        patch.setattr("training.sessions.gathering.SLIDES", 2)
        patch.setattr("training.sessions.locator_session.SLIDES", 2)
        patch.setattr(
            "training.sessions.gathering._SIMULATED",
            {"train": 12, "val": 52, "test": 8},
        )
        patch.setattr("training.sessions.gathering._FRAMES", 4)
        patch.setattr("training.sessions.classifier_session._GIBBS_STEPS", 2)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


# After a few steps a model is as good as chance, so classes may well change.
LOWER = ("--precision", "fp16", "--precision", "int8", "--force", "--crops", 64)


def trained(family: str, manifest: Path, folder: Path, *more: object) -> Path:
    """Fit a family and export it, once for all tests of this module."""
    out = folder / "-".join([family, *(str(m).strip("-") for m in more)])
    if not (out / "bundle").exists():
        invoke("train", family, "--data", manifest, "--out", out, *more)
        lower = LOWER if family in CLASSIFIERS else ()
        data = ("--data", manifest) if lower else ()
        invoke("export", out, out / "bundle", "--name", family, *lower, *data)
    return out


@pytest.mark.timeout(600)
@pytest.mark.parametrize("family", [*CLASSIFIERS, "locator"])
def test_from_manifest_to_bundle(family: str, manifest: Path, folder: Path) -> None:
    out = trained(family, manifest, folder)

    record = load_record(out)
    assert record.training.licences == {"MIT": record.training.rows}
    assert record.metrics
    assert (load_held(out) is None) == (family == "locator")
    assert not (out / FILE).exists()
    assert (family == "locator") or (out / "data.md").exists()
    bundle = load_bundle(out / "bundle")
    assert bundle.record.training == record.training
    assert (bundle.record.state_size is not None) == (family == "rnn")
    for precision in bundle.models:  # passes its self-test
        open_engine(bundle, EngineSettings(precision=precision)).close()
    assert [*bundle.models] == (["fp32"] if family == "locator" else [*PRECISIONS])


@pytest.mark.parametrize("family", [*CLASSIFIERS])
def test_torch_and_onnx_runtime_agree_on_probabilities(
    family: str, manifest: Path, folder: Path
) -> None:
    out = trained(family, manifest, folder)
    bundle = load_bundle(out / "bundle")
    graph = graph_of(load_record(out))
    load_weights(out, graph)
    graph.temperature.fill_(bundle.record.temperature)
    size = crop_size(bundle)
    crops = np.random.default_rng(0).integers(0, 255, (5, size, size, 3))
    state = first_state(bundle, 5)
    ours_engine, engine = TorchEngine(graph), OnnxRuntimeEngine(bundle.model)

    for _ in range(3):
        ours = ours_engine.infer(crops.astype(np.uint8), state)
        theirs = engine.infer(crops.astype(np.uint8), state)
        np.testing.assert_allclose(
            theirs.tensors["probabilities"], ours.tensors["probabilities"], atol=1e-4
        )
        state = theirs.next_state


@pytest.mark.parametrize("family", [*CLASSIFIERS])
def test_every_family_classifies_images(
    family: str, manifest: Path, folder: Path
) -> None:
    bundle = trained(family, manifest, folder) / "bundle"
    image = manifest.with_name("field-5.png")

    lines = invoke("classify", image, "--bundle", bundle, "--crops", "--json")

    assert '"error"' not in lines
    assert all(name in lines for name in TASKS["cells4"])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", [*CLASSIFIERS])
def test_every_family_builds_as_a_tensorrt_engine(
    family: str, precision: Precision, manifest: Path, folder: Path
) -> None:
    bundle = load_bundle(trained(family, manifest, folder) / "bundle")

    built = build_without_gpu(bundle, precision)

    assert len(built.plan) > 50_000
    names = {BATCH, *bundle.record.outputs, *((STATE,) if family == "rnn" else ())}
    assert {t.name: t.dtype for t in built.tensors} == {
        name: "UINT8" if name == BATCH else "FLOAT" for name in names
    }


@pytest.mark.parametrize("family", [*CLASSIFIERS])
def test_lower_precisions_are_where_they_should_be(
    family: str, manifest: Path, folder: Path
) -> None:
    bundle = load_bundle(trained(family, manifest, folder) / "bundle")
    fp32, fp16, int8 = (onnx.load_from_string(bundle.models[p]) for p in PRECISIONS)

    def weights(model: onnx.ModelProto, kind: int) -> int:
        return sum(
            int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == kind
        )

    whole = weights(fp32, onnx.TensorProto.FLOAT)
    least = {"capsnet": 0.3, "rnn": 0.6}.get(family, 0.9)
    assert weights(fp16, onnx.TensorProto.FLOAT16) > least * whole
    assert weights(fp32, onnx.TensorProto.FLOAT16) == 0
    assert weights(int8, onnx.TensorProto.INT8) > least * whole
    assert weights(int8, onnx.TensorProto.INT32) == 0  # no quantised bias
    makers = {name: node for node in int8.graph.node for name in node.output}
    for output in int8.graph.output:
        assert makers[output.name].op_type != "DequantizeLinear"
    quantised = {
        user.op_type
        for node in int8.graph.node
        if node.op_type == "DequantizeLinear"
        for user in int8.graph.node
        if node.output[0] in user.input
    }
    pools = {"MaxPool", "AveragePool"}  # those that share a convolution's input
    assert quantised - pools == ({"Gemm"} if family == "dbn" else {"Conv"})


def test_what_the_ranges_were_measured_on_is_listed(
    manifest: Path, folder: Path
) -> None:
    bundle = trained("vgg16", manifest, folder) / "bundle"

    listed = msgspec.json.decode((bundle / INT8_CROPS).read_bytes(), type=Int8Crops)

    assert len(listed.crops) == 64
    with manifest.open() as file:
        rows = {f"manifest.csv:{n}": r for n, r in enumerate(csv.DictReader(file), 2)}
    assert {rows[crop.where]["split"] for crop in listed.crops} == {"train"}
    assert {crop.domain for crop in listed.crops} == {"wright", "giemsa"}
    cost = load_bundle(bundle).cost_of("int8")
    assert cost is not None
    assert cost.rows == sum(
        row["split"] == "test" and row["licence"] == "MIT" for row in rows.values()
    )


@pytest.mark.timeout(600)
def test_a_precision_that_says_something_else_is_refused_or_forced(
    manifest: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A damaged converter: the head's weights have the other sign."""

    def damaged(graph: ClassifierGraph) -> ClassifierGraph:
        changed = copy.deepcopy(graph)
        changed.network.classifier[-1].weight.data *= -1  # type: ignore[union-attr,index,operator]
        return changed

    done = trained("vgg16", manifest, folder)
    monkeypatch.setattr("export.bundling.halve", damaged)
    asked = [
        "export",
        done,
        tmp_path / "bad",
        "--precision",
        "fp16",
        "--data",
        manifest,
    ]

    refused = run(*asked)
    assert isinstance(refused.exception, ParityRefused)
    assert "fp16 names" in str(refused.exception)
    assert "expected 99.5" in str(refused.exception)
    assert not (tmp_path / "bad").exists()

    predicted = invoke(*asked, "--force")
    assert "too few, but forced" in predicted
    cost = load_bundle(tmp_path / "bad").cost_of("fp16")
    assert cost is not None
    assert cost.is_forced


def test_lower_precisions_need_cells_and_no_locator(
    manifest: Path, folder: Path, tmp_path: Path
) -> None:
    asked = tmp_path / "bundle", "--precision", "fp16"
    blind = run("export", trained("vgg16", manifest, folder), *asked)
    assert "needs --data" in blind.output

    locator = trained("locator", manifest, folder)
    refused = run("export", locator, *asked, "--data", manifest)
    assert isinstance(refused.exception, ExportFailed)
    assert "a locator is exported in fp32 alone" in str(refused.exception)


@pytest.mark.parametrize("family", ["vgg16", "rnn"])
def test_one_bundle_is_judged_in_whole_fields(
    family: str, manifest: Path, folder: Path
) -> None:
    bundle = trained(family, manifest, folder) / "bundle"
    asked = "--confusion", folder / f"{family}.json"

    shown = invoke("evaluate", "--data", manifest, "--bundle", bundle, *asked)

    assert "whole fields" in shown
    assert "false boxes included" in shown
    assert "crops of labelled boxes" in shown
    confusion = read_confusion(folder / f"{family}.json")
    assert confusion.classes == load_bundle(bundle).labels
    rows = [line.split(",") for line in manifest.read_text().splitlines()]
    cells = sum("test" in row for row in rows)
    assert 0 < sum(map(sum, confusion.cells)) <= cells


def test_a_report_compares_families(manifest: Path, folder: Path) -> None:
    bundles = [
        option
        for family in ("vgg16", "rnn")
        for option in ("--bundle", trained(family, manifest, folder) / "bundle")
    ]
    study = folder / "study.json"
    invoke(
        "study", "left-out", "--family", "dbn", "--domain", "giemsa", "--data",
        manifest, "--out", study, "--colour", "as-is",
    )  # fmt: skip

    shown = invoke(
        "evaluate", "--data", manifest, *bundles, "--report", folder / "report",
        "--study", study, "--doubtful", "giemsa:Platelet",
        "--picture", trained("vgg16", manifest, folder) / "contact-sheet.png",
    )  # fmt: skip

    assert "report.html" in shown.replace("\n", "")
    text = (folder / "report" / "report.md").read_text()
    for word in ("vgg16", "rnn", "0.917", "giemsa"):
        assert word in text
    assert len(list((folder / "report" / "figures").iterdir())) >= 8


def test_a_study_goes_on_where_it_was(manifest: Path, folder: Path) -> None:
    out = folder / "left-out.json"
    command = (
        "study", "left-out", "--family", "capsnet", "--data", manifest,
        "--colour", "as-is", "--colour", "white-point", "--shown-as", "white-point",
    )  # fmt: skip

    invoke(*command, "--out", out, "--domain", "giemsa")
    first = read_study(out).left_out
    predicted = invoke(
        *command, "--out", out, "--domain", "giemsa", "--domain", "wright"
    )

    cells = read_study(out).left_out
    assert len(first) == 4  # with and without white point, batch and group
    assert len(cells) == 8
    assert "without giemsa" not in predicted
    assert {(c.norm, c.colour, c.domain) for c in cells} == {
        (norm, colour, domain)
        for norm in ("batch", "group")
        for colour in ("as-is", "white-point")
        for domain in ("giemsa", "wright")
    }
    assert {(c.colour, *c.shown_as) for c in cells} == {
        ("as-is", "white-point"),
        ("white-point",),
    }


def test_a_domain_without_cells_cannot_be_left_out(
    manifest: Path, folder: Path
) -> None:
    refused = run(
        "study", "left-out", "--data", manifest, "--out", folder / "no.json",
        "--family", "dbn", "--domain", "nowhere",
    )  # fmt: skip

    assert "['nowhere'] have no cells" in str(refused.exception)
    assert "'giemsa', 'wright'" in str(refused.exception)


def test_labels_are_thinned_for_the_deep_belief_network(
    manifest: Path, folder: Path
) -> None:
    out = folder / "labels.json"

    invoke("study", "labels", "--data", manifest, "--out", out, "--share", "0.1")

    (point,) = read_study(out).efficiency
    assert point.share == 0.1
    assert point.pretrained.rows == point.from_scratch.rows > 10


def test_a_sequence_model_learns_simulated_change(folder: Path) -> None:
    out = folder / "change"
    invoke("train", "rnn", "--task", "change", "--out", out)
    invoke("train", "dbn", "--task", "change", "--out", folder / "change-dbn")

    record = load_record(out)
    held = load_held(out)
    assert record.training.added == {"simulated clips": 12}
    assert record.classes == TASKS["change"]
    assert held is not None
    assert len(held.logits) == 52 * 4  # each frame is evaluated where the truth changes
    invoke("export", out, out / "bundle", "--name", "change")
    invoke(
        "export", folder / "change-dbn", folder / "change-dbn" / "b", "--name", "dbn"
    )
    invoke(
        "evaluate", "--bundle", out / "bundle", "--bundle", folder / "change-dbn" / "b",
        "--report", folder / "change-report",
    )  # fmt: skip
    assert (folder / "change-report" / "report.html").exists()


def test_the_names_that_options_offer_are_those_that_can_be_fitted() -> None:
    """Help takes them from a list, so that it needs no torch."""
    assert tuple(CLASSIFIERS) == FAMILIES
    plans = [LOCATOR_PLANS, *(family.plans for family in CLASSIFIERS.values())]
    assert {tuple(plan) for plan in plans} == {PRESETS}


def strip(folder: Path, name: str, frames: int) -> None:
    random = np.random.default_rng(frames)
    cv2.imwrite(str(folder / name), random.integers(0, 255, (31, 31 * frames, 3)))


def test_a_sequence_model_learns_from_strips(tmp_path: Path) -> None:
    lines = ["path,licence,split,label,x0,y0,x1,y1,task,group,n_frames"]
    for number in range(66):
        split = "val" if number > 12 else "train"
        label = TASKS["timelapse"][number % 3]
        frames = 3 + number % 3
        strip(tmp_path, f"clip-{number}.png", frames)
        lines.append(
            f"clip-{number}.png,MIT,{split},{label},,,,,timelapse,{number},{frames}"
        )
    (tmp_path / "m.csv").write_text("\n".join(lines))

    invoke(
        "train", "rnn", "--task", "timelapse", "--data", tmp_path / "m.csv",
        "--out", tmp_path / "run", "--network", "cell=lstm",
    )  # fmt: skip

    held = load_held(tmp_path / "run")
    assert held is not None
    assert len(held.logits) == 53  # each clip is evaluated once
    assert load_record(tmp_path / "run").network["cell"] == "lstm"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--without", "giemsa"), "giemsa"),
        (("--colour", "white-point"), "wright"),
        (("--label-share", "0.2"), "wright"),
    ],
)
def test_options_of_training_work(
    manifest: Path, tmp_path: Path, more: tuple[str, ...], says: str
) -> None:
    invoke("train", "dbn", "--data", manifest, "--out", tmp_path, *more)

    domains = load_record(tmp_path).training.domains
    assert (says in domains) == (more[0] != "--without")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--network", "depth=3"), "no setting 'depth'"),
        (("--network", "width=wide"), "width='wide'"),
        (("--network", "norm=layer"), "norm"),
        (("--plan", "epoch=3"), "a plan has no \\['epoch'\\]"),
        (("--plan", "epochs=few"), "epochs"),
        (("--plan", "optimiser=sgd"), "sgd"),
        (("--plan", "epochs=0"), "epochs"),
        (("--weights", "nowhere.pth"), "nowhere.pth"),
        (("--without", "giemsa", "--without", "wright"), "no train row"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    manifest: Path, tmp_path: Path, more: tuple[str, ...], says: str
) -> None:
    with pytest.raises(Exception, match=says):
        hemascope.main(
            ["train", "vgg16", "--data", str(manifest), "--out", str(tmp_path), *more],
            standalone_mode=False,
        )


def test_data_without_a_free_licence_are_refused(
    manifest: Path, tmp_path: Path
) -> None:
    text = manifest.read_text().replace(",MIT,", ",CC-BY-NC,")
    other = manifest.with_name("locked.csv")
    other.write_text(text)
    command = ("train", "dbn", "--data", other, "--out", tmp_path)

    result = run(*command)

    assert result.exit_code != 0
    assert "licence" in str(result.exception)
    assert run(*command, "--any-licence").exit_code == 0
    assert "CC-BY-NC" in load_record(tmp_path).training.licences


def test_rows_with_a_problem_are_named_and_left_out(
    manifest: Path, tmp_path: Path
) -> None:
    lines = manifest.read_text().splitlines()
    lines.append(
        lines[1].replace("field-0.png", "field-2.png").split(",MIT")[0]
        + ",MIT,train,WBC,400,300,500,320,cells4,wright,slide-0,simulated"
    )
    other = manifest.with_name("beyond.csv")
    other.write_text("\n".join(lines))

    predicted = invoke("train", "dbn", "--data", other, "--out", tmp_path)

    assert f"beyond.csv:{len(lines)}" in predicted
    assert "outside" in predicted
    assert f"beyond.csv:{len(lines)}" in (tmp_path / "data.md").read_text()
