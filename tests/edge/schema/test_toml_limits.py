"""A settings file that is an attack: one line, quickly, and with little memory."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from edge.errors import ConfigurationInvalid
from edge.schema.codec import read_good_parts, read_toml
from edge.schema.toml_limits import why_hostile
from edge.settings.files import DeviceFile

EXAMPLE = (Path(__file__).parents[3] / "examples" / "device.toml").read_text()
HOSTILE = {
    "dotted keys": (".".join(["a"] * 20_000) + " = 1", "parts"),
    "quoted keys": (".".join(['"a"'] * 20_000) + " = 1", "parts"),
    "spaced keys": (" . ".join(["a"] * 20_000) + " = 1", "parts"),
    "dotted table": ("[" + ".".join(["a"] * 20_000) + "]", "parts"),
    "dotted inside": ("x = {" + ".".join(["a"] * 20_000) + " = 1}", "parts"),
    "nested lists": ("x = " + "[" * 20_000, "nested too deep"),
    "nested tables": ("x = " + "{a=" * 20_000, "nested too deep"),
    "large": ("x = 1\n" * 100_000, "expected at most"),
    "long line": ("[" + " " * 200_000, "not TOML"),
    "long word": ("a" * 200_000, "not TOML"),
    "many quotes": ('"' * 200_001, "not TOML"),
    "NUL": (EXAMPLE.replace("/var/lib/hemascope", "/var\\u0000"), "NUL"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.timeout(20)
def test_a_hostile_settings_file_is_one_line_and_little_memory(
    name: str, tmp_path: Path
) -> None:
    text, says = HOSTILE[name]
    file = tmp_path / "device.toml"
    file.write_text(text)
    tracemalloc.start()

    with pytest.raises(ConfigurationInvalid, match=says) as error:
        read_toml(file, DeviceFile)
    read_good_parts(file, DeviceFile)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000_000
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


def test_a_settings_file_that_is_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "device.toml")

    with pytest.raises(ConfigurationInvalid, match="expected a regular file"):
        read_toml(tmp_path / "device.toml", DeviceFile)


@pytest.mark.parametrize(
    "text",
    [
        EXAMPLE,
        f"x = [{', '.join(['1.5'] * 50)}]",
        f"x = '{'a.' * 100}'  # {'b.' * 100}",
        f'x = """\n{"a." * 100}\n"""',
        r'x = "C:\\u0000"',
        r"x = '\u0000'",
    ],
)
def test_what_is_no_attack_is_not_taken_for_one(text: str) -> None:
    assert why_hostile(text) is None
