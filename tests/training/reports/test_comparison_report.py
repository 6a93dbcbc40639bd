"""A report holds what was measured, in both forms, and nothing that was not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from edge.artifacts.bundle import Metric
from edge.rendering.report_blocks import ReportImpossible
from training.metrics.held_out import Evaluated, InferenceCost, Robustness
from training.reports.comparison_report import LabelEfficiency, LeftOut, write_report
from training.reports.sections import PUBLISHED

LABELS = ("RBC", "WBC", "Platelet", "Plasma")
HOSTILE = "<script>alert('$x^{')</script> | _a_ [b](c)\n# d"
SURE = Metric(value=0.9, low=0.85, high=0.95, rows=100)

Model = Callable[..., Evaluated]


@pytest.fixture
def model(random: np.random.Generator) -> Model:
    """Build models evaluated on the same 300 cells; no platelet among them."""
    classes = random.choice([0, 1, 3], 300).astype(np.int64)
    domains = np.array(["chula", "raabin"])[random.integers(0, 2, 300)]
    groups = np.char.add(domains, random.integers(0, 4, 300).astype(str))
    noise = random.normal(0, 1, (300, 4))

    def build(family: str = "vgg16", skill: float = 2.0) -> Evaluated:
        return Evaluated(
            name=family.upper(),
            family=family,
            labels=LABELS,
            logits=(noise + skill * np.eye(4)[classes]).astype(np.float32),
            classes=classes,
            domains=domains,
            groups=groups,
            temperature=1.0,
            abstain_below=0.5,
            trained_on=("chula",),
            cost=InferenceCost(14_700_000, 3 * 10**8, 120.0, 4.0, 2.0, 300.0),
            robustness=Robustness({0.0: 0.9, 90.0: 0.8}, {0.0: 0.9, 1.0: 0.7}),
        )

    return build


class Page(HTMLParser):
    """Reads a page; fails where a tag is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words += f"{data} "


def render(
    folder: Path, evaluated: list[Evaluated], **more: object
) -> tuple[str, Page]:
    """Write a report; return its Markdown and its page."""
    more = {"title": "Five families", "facts": {"split": "test"}} | more
    path = write_report(folder, evaluated, **more)  # type: ignore[arg-type]
    assert path == folder / "report.html"
    markdown = (folder / "report.md").read_text("utf-8")
    return markdown, Page(path.read_text("utf-8"))


def test_both_forms_say_the_same(tmp_path: Path, model: Model) -> None:
    markdown, page = render(tmp_path, [model(family) for family in PUBLISHED])

    for line in re.findall(r"^## (.+)$", markdown, re.MULTILINE):
        assert line in page.words
    numbers = re.compile(r"\d\.\d{3}\b")
    assert numbers.findall(markdown) == numbers.findall(page.words)
    for family, figures in PUBLISHED.items():
        row = next(
            x for x in markdown.splitlines() if x.startswith(f"| {family.upper()}")
        )
        assert all(f"| {figure:.3f} |" in row for figure in figures)


def test_every_figure_is_there_and_described(tmp_path: Path, model: Model) -> None:
    markdown, page = render(tmp_path, [model("dbn")])
    shown = re.findall(r"!\[(.+)\]\((figures/.+)\)", markdown)
    images = [attributes for tag, attributes in page.tags if tag == "img"]

    assert len(shown) == len(images) == 9
    assert [alt for alt, _ in shown] == [image["alt"] for image in images]
    for (_, path), image in zip(shown, images, strict=True):
        assert (tmp_path / path).read_bytes().startswith(b"\x89PNG")
        assert str(image["src"]).startswith("data:image/png;base64,")


def test_the_page_needs_no_network_and_runs_nothing(
    tmp_path: Path, model: Model
) -> None:
    _, page = render(tmp_path, [model()])

    assert "http" not in page.words
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "a"})


def test_hostile_strings_stay_text(tmp_path: Path, model: Model) -> None:
    hostile = replace(
        model(),
        name=HOSTILE,
        labels=(HOSTILE, *LABELS[1:]),
        domains=np.full(300, HOSTILE),
    )

    markdown, page = render(
        tmp_path,
        [hostile],
        title=HOSTILE,
        facts={HOSTILE: HOSTILE},
        exclusions=[(HOSTILE, "WBC")],
    )

    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script>" in page.words
    assert "<script>" not in markdown
    assert r"\| \_a\_ \[b\](c) # d" in markdown


def test_a_missing_class_is_named_and_no_number_is_invented(
    tmp_path: Path, model: Model
) -> None:
    unmeasured = InferenceCost(14, 30, *[float("nan")] * 4)

    markdown, page = render(tmp_path, [replace(model(), cost=unmeasured)])

    assert "| VGG16 | Platelet | 0 | does not occur" in markdown
    assert markdown.count("not measured") == 4
    assert not re.search(r"\bnan\b|\binf\b", markdown + page.words, re.IGNORECASE)


def test_sections_without_data_are_left_out(tmp_path: Path, model: Model) -> None:
    bare = replace(model(), robustness=Robustness({}, {}))

    markdown, _ = render(tmp_path, [bare])

    for title in ("Robustness", "laboratory left out", "Label efficiency", "Pictures"):
        assert title not in markdown


def test_experiments_and_pictures_are_shown(tmp_path: Path, model: Model) -> None:
    rows = [
        LeftOut("vgg16", "batch", "as-is", "chula", SURE, 0.97, 800.0),
        LeftOut("vgg16", "none", "white-point", "raabin", SURE, 0.97, 800.0),
    ]
    picture = tmp_path / "field.jpg"
    picture.write_bytes(b"\xff\xd8\xff rest")

    markdown, page = render(
        tmp_path,
        [model()],
        left_out=rows,
        efficiency=[
            LabelEfficiency(1.0, SURE, SURE),
            LabelEfficiency(0.01, SURE, SURE),
        ],
        pictures={"A field": picture},
    )

    assert "| vgg16, no norm, white-point | raabin | 100 | 0.900 (0.850 to" in markdown
    assert markdown.index("| 1 % |") < markdown.index("| 100 % |")
    assert "![A field](figures/picture-1.jpeg)" in markdown
    assert any(str(a.get("src")).startswith("data:image/jpeg") for _, a in page.tags)


def test_excluded_labels_get_a_column_of_their_own(
    tmp_path: Path, model: Model
) -> None:
    markdown, _ = render(tmp_path, [model()], exclusions=[("raabin", "WBC")])

    assert "| raabin, doubtful labels left out |" in markdown
    assert re.search(r"to \d\.\d{3}\), unseen \|\n", markdown)


def test_two_models_of_one_family_are_told_apart(tmp_path: Path, model: Model) -> None:
    second = replace(model("vgg16", skill=3.0), name="VGG16, group norm")

    markdown, _ = render(tmp_path, [model(), second])

    assert "| VGG16, group norm |" in markdown


def test_models_judged_on_other_cells_are_refused(tmp_path: Path, model: Model) -> None:
    other = replace(model("dbn"), classes=np.zeros(300, np.int64))

    with pytest.raises(ReportImpossible, match="DBN was evaluated on 300 cells"):
        render(tmp_path, [model(), other])
    with pytest.raises(ReportImpossible, match="0 models"):
        render(tmp_path, [])


def test_a_picture_of_another_kind_is_refused(tmp_path: Path, model: Model) -> None:
    picture = tmp_path / "field.gif"
    picture.write_bytes(b"GIF89a")

    with pytest.raises(ReportImpossible, match=r"starts with b'GIF8', expected a PNG"):
        render(tmp_path, [model()], pictures={"A field": picture})
