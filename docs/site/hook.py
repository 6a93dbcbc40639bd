"""Pages of the site that are made from files outside `docs/`, and the links to them.

Root files such as ARCHITECTURE.md, the shipped settings, the JSON Schemas and the API
reference are read from where they lie, so that nothing is copied by hand. MkDocs calls
the functions `on_...` by their names.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from posixpath import dirname, normpath, relpath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PACKAGES = ("edge", "calibration", "training", "export")
# Pages that are Markdown files elsewhere in the repository.
INCLUDED = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "DECISIONS.md": "decisions.md",
    "CHANGELOG.md": "changelog.md",
    "systemd/README.md": "systemd.md",
}
SETTINGS = {
    "examples/device.toml": "Every setting of a device",
    "examples/archive.toml": "Every setting of the archive",
}
SCHEMAS_MARK = "<!-- table of schemas -->"
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)\s#]+)(?=[)#])")
_FENCE = re.compile(r"^( *```.*?^ *```)", re.M | re.S)
_BADLY_NESTED = re.compile(r"^ {1,3}(?:```|[-*] |\d+\. ).*", re.M)
_LOADED = re.compile(
    r"<(?:script|link|img|iframe)[^>]*?(?:src|href)=\"(?:https?:)?//[^\"]*"
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the modules into the navigation, in the place that `mkdocs.yml` names."""
    for entry in config.nav or []:
        if entry.get("API reference") == "reference":
            entry["API reference"] = [_nav_of(ROOT / name) for name in PACKAGES]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in `docs/`."""
    pages = {page: (ROOT / path).read_text("utf-8") for path, page in INCLUDED.items()}
    pages["settings.md"] = _settings_page()
    for module in _modules():
        pages[_reference(module)] = _module_page(module)
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(
    markdown: str, *, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Let links between files of the repository lead to the pages of these files.

    Raises
    ------
    PluginError
        A list or code within a list has fewer than four spaces before it. GitHub would
        nest it, the site would silently not.
    """
    here = page.file.src_uri
    if here == "index.md":
        page.meta["hide"] = ["navigation"]  # which would hold this page alone
    if here == "schemas.md":
        markdown = markdown.replace(SCHEMAS_MARK, _table_of_schemas())
    homes = {page: path for path, page in INCLUDED.items()}
    folder = dirname(homes.get(here, f"docs/{here}"))
    outside = _FENCE.sub(lambda code: code[0].partition("\n")[0], markdown)
    if nested := _BADLY_NESTED.search(outside):
        raise PluginError(f"{here}: put four spaces before {nested[0].strip()!r}")
    parts = _FENCE.split(markdown)  # text, code, text, code …
    for index in range(0, len(parts), 2):
        parts[index] = _LINK.sub(
            lambda link: _link(link[0], folder, here), parts[index]
        )
    return "".join(parts)


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that would load anything from another server.

    Raises
    ------
    PluginError
        The page names a script, a style sheet, a picture or a frame from elsewhere.
    """
    if found := _LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} loads from elsewhere: {found[0]}")
    return output


def _link(target: str, folder: str, here: str) -> str:
    """Return the address of a file of the repository, as seen from the page `here`."""
    path = normpath(f"{folder}/{target}") if folder else normpath(target)
    if path in INCLUDED:
        there = INCLUDED[path]
    elif path in SETTINGS:
        there = "settings.md"
    elif path == "docs/schema":
        there = "schemas.md"
    elif path.endswith(".py"):
        there = _reference(ROOT / path)
    else:
        there = path.removeprefix("docs/")
    return relpath(there, dirname(here) or ".")


def _settings_page() -> str:
    """Return the shipped settings files as one page."""
    parts = ["# Settings", "An unknown key is an error. Each key is explained here."]
    for path, heading in SETTINGS.items():
        text = (ROOT / path).read_text("utf-8")
        parts.append(f"## {heading}\n\n`{path}`\n\n```toml\n{text}```")
    return "\n\n".join(parts)


def _table_of_schemas() -> str:
    """Return a table of the JSON Schemas, each with its own first sentence."""
    rows = ["| schema | describes |", "|---|---|"]
    for path in sorted((ROOT / "docs/schema").glob("*.json")):
        content = json.loads(path.read_text("utf-8"))
        rows.append(f"| [{path.name}](schema/{path.name}) | {_described(content)} |")
    return "\n".join(rows)


def _described(schema: dict[str, Any]) -> str:
    """Return the first paragraph of what a schema says of itself."""
    if reference := schema.get("$ref"):
        schema = schema["$defs"][reference.rpartition("/")[2]]
    info = schema.get("info", {})
    text = schema.get("description") or info.get("description") or info.get("title", "")
    if not text:
        return "one of: " + ", ".join(sorted(schema.get("$defs", {})))
    return " ".join(text.split("\n\n")[0].split())


# -- API reference ---------------------------------------------------------------------


def _modules() -> list[Path]:
    """Return the Python files of all packages that say something of themselves."""
    paths = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    return sorted(path for path in paths if path.name != "__main__.py")


def _reference(path: Path) -> str:
    """Return the page of a module, `edge/frames.py` → `reference/edge/frames.md`."""
    relative = path.relative_to(ROOT).with_suffix(".md")
    page = relative.with_name("index.md") if path.name == "__init__.py" else relative
    return f"reference/{page.as_posix()}"


def _name(path: Path) -> str:
    """Return the dotted name of a module or package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _module_page(path: Path) -> str:
    """Return the page of a module; of a package, with a list of what is in it."""
    name = _name(path)
    text = f"# {name}\n\n::: {name}\n"
    if path.name == "__init__.py":
        rows = [
            f"| [{child.stem if child.suffix else child.name}]"
            f"({relpath(_reference(_file(child)), dirname(_reference(path)))}) "
            f"| {_first_line(_file(child))} |"
            for child in _children(path.parent)
        ]
        text += "\n| module | |\n|---|---|\n" + "\n".join(rows) + "\n"
    return text


def _children(package: Path) -> list[Path]:
    """Return the sub-packages of a package and then its modules."""
    folders = [path for path in package.iterdir() if (path / "__init__.py").exists()]
    hidden = {"__init__.py", "__main__.py"}
    modules = [path for path in package.glob("*.py") if path.name not in hidden]
    return sorted(folders) + sorted(modules)


def _file(child: Path) -> Path:
    """Return the file of a module, or that of a package."""
    return child if child.suffix else child / "__init__.py"


def _first_line(path: Path) -> str:
    """Return the first line of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return text.partition("\n")[0].replace("|", "\\|")


def _nav_of(package: Path) -> dict[str, Any]:
    """Return the navigation of a package: its own page first, then what is in it."""
    entries: list[Any] = [_reference(package / "__init__.py")]
    for child in _children(package):
        if child.suffix:
            entries.append({child.stem: _reference(child)})
        else:
            entries.append(_nav_of(child))
    return {package.name: entries}
