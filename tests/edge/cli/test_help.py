"""The help answers at once and says all, and a wrong name is answered by the right."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from edge.cli.groups import _SECTIONS, Section, in_section, section_of, summary_of
from edge.cli.main import GROUP, hemascope
from edge.remote.client import REQUEST_LIFETIME_S
from edge.settings.models import PRECISIONS, EngineSettings

ROOT = Path(__file__).parents[3]
# What takes longest to import of what the commands need when they run.
HEAVY = ("torch", "onnx", "onnxruntime", "cv2", "scipy", "numpy", "rich", "paho", "ssl")


def walk(
    command: click.Command, context: click.Context, name: str
) -> Iterator[tuple[str, click.Command, click.Context]]:
    """Give a command and all below it, each with its whole name."""
    yield name, command, context
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            inner = command.get_command(context, below)
            assert inner is not None, below
            inner_context = click.Context(inner, info_name=below, parent=context)
            yield from walk(inner, inner_context, f"{name} {below}")


def problem_of(option: click.Option, context: click.Context) -> str | None:
    """Say what the help of an option lacks; None if nothing."""
    if not option.help or not option.help.endswith("."):
        return "has no help text, or one that is no sentence"
    default = option.get_default(context, call=False)
    is_switch = option.is_flag and not option.secondary_opts
    is_shown = isinstance(default, (int, float, str, Path)) and default != ""
    record = option.get_help_record(context)
    if is_shown and not is_switch and "default: " not in (record or ("", ""))[1]:
        return f"does not show its default {default!r}"
    return None


TOP = click.Context(hemascope, info_name="hemascope", show_default=True)
COMMANDS = {
    name: (command, ctx) for name, command, ctx in walk(hemascope, TOP, "hemascope")
}
OPTIONS = [
    pytest.param(option, ctx, id=f"{name} {option.opts[-1]}")
    for name, (command, ctx) in COMMANDS.items()
    for option in command.params
    if isinstance(option, click.Option)
]


def run(*arguments: str) -> str:
    return CliRunner().invoke(hemascope, arguments).output


def test_all_entry_points_are_commands() -> None:
    names = {entry.name for entry in entry_points(group=GROUP)}

    assert {name.split()[1] for name in COMMANDS if " " in name} == names
    assert len(COMMANDS) > 35


@pytest.mark.parametrize(
    "arguments", [("--help",), ("train", "--help"), ("--version",)]
)
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    """A subprocess, as this process has imported all of it."""
    script = (
        "import json, sys\n"
        "from edge.cli.main import hemascope\n"
        "try:\n    hemascope(sys.argv[1:])\n"
        "except SystemExit:\n    pass\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    imported = set(json.loads(done.stdout.splitlines()[-1]))

    assert "edge.cli.main" in imported
    assert not imported & set(HEAVY)


def test_every_command_is_listed_in_a_section_with_its_whole_summary() -> None:
    text = " ".join(re.sub(r"-\n\s+", "-", run("--help")).split())

    places = [text.index(f" {section.title}: ") for section in Section]
    assert places == sorted(places)
    for name, (command, _) in COMMANDS.items():
        assert summary_of(command), name
        if name.count(" ") == 1:
            assert f"{name.split()[1]} {summary_of(command)}" in text
    assert "..." not in text.partition(Section.LOOK.title)[2]


def test_every_command_names_its_section() -> None:
    assert set(_SECTIONS) >= {entry.name for entry in entry_points(group=GROUP)}


@pytest.mark.parametrize(("option", "context"), OPTIONS)
def test_every_option_has_a_help_text_and_shows_its_default(
    option: click.Option, context: click.Context
) -> None:
    assert problem_of(option, context) is None


def test_an_option_without_help_or_default_is_found() -> None:
    described = click.Option(["--size"], default=3, help="Size of it.")

    assert problem_of(described, TOP) is None
    assert "no help" in (problem_of(click.Option(["--size"], default=3), TOP) or "")
    assert "default 3" in (problem_of(described, click.Context(hemascope)) or "")


def test_what_build_offers_is_what_the_settings_say() -> None:
    build, ctx = COMMANDS["hemascope build"]
    default = {p.name: p.get_default(ctx) for p in build.params}
    settings = EngineSettings()

    assert default["precision"] == settings.precision
    assert default["batch"] == ",".join(map(str, settings.batch))
    assert default["has_graphs"] == settings.has_graphs


def test_a_command_lives_as_long_as_the_client_says() -> None:
    command, ctx = COMMANDS["hemascope command"]
    default = {p.name: p.get_default(ctx) for p in command.params}

    assert default["lives"] == REQUEST_LIFETIME_S


def test_a_model_is_exported_in_every_lower_precision() -> None:
    export, _ = COMMANDS["hemascope export"]
    (option,) = (p for p in export.params if p.name == "precisions")

    assert isinstance(option.type, click.Choice)
    assert tuple(option.type.choices) == PRECISIONS[1:]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("clasify",), "There is no command 'clasify'. Did you mean classify?"),
        (("bench-time",), "Did you mean bench-timelapse"),
        (("calibrate", "feild"), "There is no command 'feild'. Did you mean field?"),
        (("record", "unpni", "x"), "Did you mean unpin"),
        (("qqqqqq",), "`hemascope --help` lists the commands"),
        (("classify", "x.png", "--locatr", "y"), "--locator"),
        (("demo", "--stain", "wrigth"), "'wright'"),
    ],
)
def test_a_wrong_name_is_answered_by_the_nearest_right_one(
    arguments: tuple[str, ...], says: str
) -> None:
    result = CliRunner().invoke(hemascope, arguments, prog_name="hemascope")

    assert result.exit_code == 2
    assert says in result.output


def test_a_command_that_cannot_be_imported_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries = {entry.name: entry for entry in entry_points(group=GROUP)}
    gone = EntryPoint("away", "edge.cli.away:away_command", GROUP)
    monkeypatch.setattr(
        "edge.cli.main._entry_points", lambda: {**entries, "away": gone}
    )

    listed, used = run("--help"), run("away", "--now")

    assert "classify" in listed
    assert "cannot be used here: No module named 'edge.cli.away'" in used
    assert "install Hemascope again" in used


def test_the_help_says_which_section_needs_a_package_that_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edge.cli.groups.find_spec", lambda name: None)

    assert "Train and export (not installed here: needs torch):" in run("--help")
    assert Section.DEVICE.title == "Run a device"


def test_a_command_without_a_section_is_maintenance() -> None:
    assert section_of("of another package") is Section.MAINTENANCE

    @in_section(Section.LOOK)
    @click.command("of a test")
    def command() -> None:
        """Do nothing."""

    assert section_of(command.name or "") is Section.LOOK


@pytest.mark.parametrize("package", ["hemascope", "edge"])
def test_the_package_can_be_run(package: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", package, "--version"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )

    assert done.stdout.startswith("hemascope, version ")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("hemascope", "cla"), {"classify"}),
        (("hemascope", "calibrate", "s"), {"scale", "slide"}),
        (("hemascope", "train", "vgg16", "--from"), {"--from-scratch"}),
        (("hemascope", "command", "self"), {"self-test"}),
    ],
)
def test_bash_completes_commands_options_and_values(
    tmp_path: Path, words: tuple[str, ...], expected: set[str]
) -> None:
    """As docs/operations.md says to set it up."""
    script = tmp_path / "hemascope"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from edge.cli.main import main\nmain()\n"
    )
    script.chmod(0o755)
    line = " ".join(words)
    program = (
        'eval "$(_HEMASCOPE_COMPLETE=bash_source hemascope)"\n'
        f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}\n"
        '_hemascope_completion hemascope\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )

    assert set(done.stdout.split()) == expected, done.stderr
