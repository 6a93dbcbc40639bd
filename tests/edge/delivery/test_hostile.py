"""A short bombardment; `python -m tests.hostile` is the long one."""

from __future__ import annotations

import json
import random
from pathlib import Path

from edge.contract.json_schemas import schema_text
from edge.ledger.reader import LedgerReader
from edge.ledger.writer import Ledger
from edge.schema.codec import encode
from edge.schema.messages import ArchiveState
from edge.schema.requests import COMMANDS
from tests.asking import DEVICE
from tests.conftest import frame_result
from tests.hostile import bombard, is_strict, mutated


def test_nothing_hostile_is_accepted_and_nothing_dies(tmp_path: Path) -> None:
    each = 2 * len(COMMANDS)  # the topics of requests share what is one topic's

    figures = bombard(tmp_path, each, seed=1)

    assert figures["sent"] == 8 * each


def test_the_judge_of_what_is_hostile_takes_what_is_valid(tmp_path: Path) -> None:
    """Else it would call everything hostile and prove nothing."""
    ledger = Ledger(tmp_path, DEVICE)
    ledger.append(frame_result())
    reader = LedgerReader(tmp_path)
    row = reader.rows(0, 1)[0].data
    state = encode(ArchiveState(state="online"))

    assert is_strict(row, json.loads(schema_text("result")))
    assert is_strict(state, json.loads(schema_text("archive-state")))
    assert not is_strict(state, json.loads(schema_text("result")))
    rng = random.Random(0)  # noqa: S311
    spoilt = [mutated(row, rng) for _ in range(200)]
    assert len(set(spoilt)) > 100
    reader.close()
    ledger.close()
