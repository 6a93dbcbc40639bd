"""A wrong setting is named with its line, its value, what was expected, a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.errors import ConfigurationInvalid
from edge.schema.codec import read_toml
from edge.settings.files import DeviceFile
from edge.settings.sources import SourceSettings

HEAD = 'device = "scope-01"\n[ledger]\nfolder = "ledger"\n'
SIMULATED = '[source]\nkind = "simulated"\n'
OPENCV = '[source]\nkind = "opencv"\ndevice = "x"\n'

WRONG = [
    (
        SIMULATED + "rate_hs = 30",
        6,
        "there is no setting `rate_hs` in [source]; did you mean rate_hz?",
    ),
    (
        SIMULATED + "rate_hz = -3",
        6,
        "`rate_hz` of [source] is -3, expected a number from 0 to 1000000; change it",
    ),
    (
        SIMULATED + 'stain = "wrigth"',
        6,
        '`stain` of [source] is "wrigth", expected one of giemsa, '
        "may-grunwald-giemsa, wright; did you mean wright?",
    ),
    (
        SIMULATED + "lamp = [1, 2]",
        6,
        "`lamp` of [source] is [1, 2], expected 3 values, each a number from 0 to 1; "
        "change it",
    ),
    (
        SIMULATED + "is_endless = 1",
        6,
        "`is_endless` of [source] is 1, expected true or false; change it",
    ),
    (
        SIMULATED + "[brokr]",
        6,
        "there is no setting `brokr`; did you mean broker?",
    ),
    (
        SIMULATED + "[ledgers.x]",
        6,
        "there is no setting `ledgers`; did you mean ledger?",
    ),
    (
        SIMULATED + "[run]\nzzz = 1",
        7,
        "there is no setting `zzz` in [run]; expected one of workers, most_failures, "
        "most_frame_s, resume_within_s, frozen_after, preview_hz, preview_width_px; "
        "take it out or correct its name",
    ),
    (
        "[source]\nrate_hz = 3",
        4,
        "`kind` is missing in [source], expected one of simulated, opencv, gstreamer, "
        "genicam, micromanager, video, folder; add a line `kind = …`",
    ),
    (
        SIMULATED + "[schedule]\n[[schedule.phases]]\ninterval_s = 1\npoints = 2\n"
        "[[schedule.phases]]\ninterval_s = 1\npoints = 0",
        12,
        "`points` of [schedule.phases] is 0, expected a whole number from 1 to "
        "10000000; change it",
    ),
    (
        OPENCV + 'controls = { gain = "high" }',
        7,
        '`gain` of [source.controls] is "high", expected a number from 0 to 1000000; '
        "change it",
    ),
    (
        OPENCV + "[source.controls]\nbalance = { pink = 1 }",
        8,
        "the keys of [source.controls.balance] are pink, expected each to be one of "
        "blue, green, red; change them",
    ),
    (
        SIMULATED + '[commands]\nallow = ["note", "stat"]',
        7,
        '`allow` of [commands] is "stat", expected one of note, pause, resume, '
        "self-test, snapshot, start, stop; did you mean start?",
    ),
    (
        SIMULATED + '[broker]\ncert = "a"\nkey = "b"',
        6,
        "[broker]: cert and key need ca, which turns TLS on",
    ),
    (
        SIMULATED + "[model]\nbundle = 3",
        7,
        "`bundle` of [model] is 3, expected a path in quotes; change it",
    ),
]


def refusal(folder: Path, text: str) -> str:
    """Read a settings file that must be refused; return why, from the file's name."""
    file = folder / "device.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationInvalid) as refused:
        read_toml(file, DeviceFile)
    assert refused.value.exit_code == 78
    return str(refused.value).removeprefix(f"{folder}/")


@pytest.mark.parametrize(("tail", "line", "says"), WRONG)
def test_a_wrong_setting_is_explained(
    tmp_path: Path, tail: str, line: int, says: str
) -> None:
    assert refusal(tmp_path, HEAD + tail) == f"device.toml:{line}: {says}"


def test_an_unknown_kind_of_source_lists_every_kind(tmp_path: Path) -> None:
    text = refusal(tmp_path, HEAD + '[source]\nkind = "simulatd"')

    kinds = [kind.__struct_config__.tag for kind in SourceSettings.__args__]
    assert text == (
        'device.toml:5: `kind` of [source] is "simulatd", expected one of '
        f"{', '.join(kinds)}; did you mean simulated?"
    )


def test_a_long_value_is_cut_short(tmp_path: Path) -> None:
    text = refusal(tmp_path, HEAD + SIMULATED + f'rate_hz = "{"9" * 500}"')

    assert "9" * 50 in text
    assert len(text) < 200
