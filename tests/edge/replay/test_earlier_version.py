"""A run that an earlier version recorded, replayed to the last bit.

`tests/data/recorded_run` was made by the version of 2026-11-30, before its files were
sorted into packages: ten frames of the simulated microscope, counted, followed and
recorded by `hemascope run`, with the rows that it wrote. To make it anew, run that
command with the settings of the recording.
"""

from __future__ import annotations

import shutil
import threading
from contextlib import closing
from pathlib import Path

import onnxruntime
import pytest

from edge.ledger.reader import LedgerReader
from edge.pipeline.parts import parts_of
from edge.recording.format import SETTINGS, open_recording
from edge.replay.comparison import compare_rows, results_of
from edge.replay.replay import replay
from edge.schema.codec import read_toml
from edge.schema.entries import read_row
from edge.schema.results import Result
from edge.settings.files import ReplaySettings

RECORDED = Path(__file__).parents[2] / "data" / "recorded_run"
RUNTIME = "1.32.0"  # other versions, and processors with AVX-512, round other ways


def rounds_as_it_did() -> bool:
    flags = Path("/proc/cpuinfo").read_text().split()
    return (
        onnxruntime.__version__ == RUNTIME
        and "avx2" in flags
        and "avx512f" not in flags
    )


@pytest.mark.skipif(
    not rounds_as_it_did(),
    reason=f"rounds as it did only with ONNX Runtime {RUNTIME} on AVX2",
)
def test_a_run_of_an_earlier_version_replays_bit_for_bit(tmp_path: Path) -> None:
    folder = shutil.copytree(RECORDED, tmp_path / "recording")
    stored = (RECORDED / "ledger-rows.jsonl").read_bytes()
    rows = [read_row(line) for line in stored.splitlines()]
    then = [row for row in rows if isinstance(row, Result)]
    recording, settings = (
        open_recording(folder),
        read_toml(folder / SETTINGS, ReplaySettings),
    )

    replay(recording, parts_of(settings), settings, tmp_path / "now", threading.Event())

    with closing(LedgerReader(tmp_path / "now")) as reader:
        items = [recorded.item for recorded in recording.items()]
        found = compare_rows(items, then, results_of(reader))
    assert found.different == []
    assert found.not_compared == []
    assert found.same == len(then) == 10
