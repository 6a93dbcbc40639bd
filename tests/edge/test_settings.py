from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from edge.errors import ConfigurationInvalid
from edge.schema.codec import read_toml
from edge.settings.files import ArchiveFile, DeviceFile
from edge.settings.sources import SourceSettings
from edge.settings.timelapse import TrackingSettings

ROOT = Path(__file__).parents[2]
LEAST = 'device = "scope-01"\n[source]\nkind = "simulated"\n[ledger]\nfolder = "l"\n'


def read(tmp_path: Path, text: str) -> DeviceFile:
    file = tmp_path / "device.toml"
    file.write_text(text)
    return read_toml(file, DeviceFile)


def test_the_examples_are_valid_and_name_every_setting() -> None:
    device = ROOT / "examples" / "device.toml"
    read_toml(device, DeviceFile)
    read_toml(ROOT / "examples" / "archive.toml", ArchiveFile)

    text = device.read_text()
    for field in DeviceFile.__struct_fields__:
        assert field in text
    sections = ("model", "location", "pauses", "events", "run", "publish", "broker")
    for section in (*sections, "ledger"):
        kind = type(getattr(read_toml(device, DeviceFile), section))
        for field in kind.__struct_fields__:
            assert f"{field} =" in text, f"[{section}] {field}"


def test_the_example_of_a_time_lapse_is_valid_and_complete(tmp_path: Path) -> None:
    text = (ROOT / "examples" / "device.toml").read_text()
    blocks = [b for b in text.split("\n\n") if re.search(r"^# \[(tr|se)", b, re.M)]
    lines = "\n".join(b[b.index("# [") :] for b in blocks).splitlines()
    shown = "\n".join(re.sub("^# ", "", line) for line in lines)

    settings = read(tmp_path, LEAST + shown)

    assert settings.tracking == TrackingSettings()
    assert settings.sequence is not None
    for field in TrackingSettings.__struct_fields__:
        assert f"\n{field} =" in shown, field


@pytest.mark.parametrize("kind", get_args(SourceSettings), ids=lambda k: k.__name__)
def test_the_example_of_each_source_is_valid_and_complete(
    kind: type[SourceSettings], tmp_path: Path
) -> None:
    text = (ROOT / "examples" / "device.toml").read_text()
    tag = kind.__struct_config__.tag
    block = next(b for b in text.split("\n\n") if f'kind = "{tag}"' in b)
    lines = [re.sub("^# ", "", line) for line in block.splitlines()]
    start = next(n for n, line in enumerate(lines) if line.startswith("kind"))
    source = "\n".join(lines[start:])

    read(tmp_path, LEAST.replace('kind = "simulated"', source))

    for field in kind.__struct_fields__:
        assert f"\n{field} =" in source, field


def test_what_is_not_said_has_its_default(tmp_path: Path) -> None:
    settings = read(tmp_path, LEAST)

    assert settings.location.mode == "cells"
    assert settings.run.preview_hz == 0  # no picture leaves a device unasked
    assert settings.ledger.folder == tmp_path / "l"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LEAST.replace("scope-01", "Scope 1"), "device"),
        (LEAST.replace("scope-01", "archive"), "archive"),
        (LEAST.replace("simulated", "webcam"), "webcam"),
        (LEAST + "[run]\nworkers = 0\n", "workers"),
        (LEAST + "[run]\nworker = 2\n", "worker"),
        (LEAST + "[broker]\nport = 70000\n", "port"),
        (
            LEAST.replace('kind = "simulated"', 'kind = "simulated"\nrate_hz = -1'),
            "rate",
        ),
        (LEAST.replace('[ledger]\nfolder = "l"\n', ""), "ledger"),
        (LEAST + '[broker]\nhost = ""\n', "host"),
        (LEAST.replace("[ledger]", "rate_hz = inf\n[ledger]"), "rate"),
        (LEAST.replace("[ledger]", "drift_um_per_s = nan\n[ledger]"), "drift"),
        (LEAST + '[broker]\ncert = "c"\nkey = "k"\n', "need ca"),
        (LEAST + '[broker]\nca = "a"\ncert = "c"\n', "go together"),
        (LEAST + '[model]\nengine = "magic"\n', "engine"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(
    tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(ConfigurationInvalid, match=says):
        read(tmp_path, text)
