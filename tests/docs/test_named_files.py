"""Pages and code name each other's files; `make docs` checks the links alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = ("edge", "calibration", "training", "export", "systemd", "examples")
PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "systemd/README.md")
PAGE_NAMED = re.compile(r"docs/[\w/-]+\.md")
FILE_NAMED = re.compile(
    r"`((?:edge|calibration|training|export|tests|systemd|examples)/[\w./-]+\.\w+)`"
)
MODULE_NAMED = re.compile(r"python -m ((?:edge|export|tests)(?:\.\w+)+)")


def pages() -> list[Path]:
    return [*(ROOT / name for name in PAGES), *(ROOT / "docs").rglob("*.md")]


def test_every_page_that_code_names_exists() -> None:
    named = {
        (path.relative_to(ROOT).as_posix(), page)
        for folder in CODE
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".toml", ".sh", ".conf", ".acl"}
        for page in PAGE_NAMED.findall(path.read_text("utf-8"))
    }

    assert len(named) > 5
    assert {(by, page) for by, page in named if not (ROOT / page).exists()} == set()


def _module_file(module: str) -> str:
    """Return what `python -m` runs: a file, or the main file of a package."""
    is_package = (ROOT / module).is_dir()
    return f"{module}/__main__.py" if is_package else f"{module}.py"


@pytest.mark.parametrize("page", pages(), ids=lambda path: path.name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text("utf-8")
    modules = (name.replace(".", "/") for name in MODULE_NAMED.findall(text))
    named = {*FILE_NAMED.findall(text), *map(_module_file, modules)}

    assert {name for name in named if not (ROOT / name).exists()} == set()
