from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from edge.contract.json_schemas import PUBLISHED, schema_text
from edge.ledger.reader import LedgerReader
from edge.ledger.writer import Ledger
from edge.schema.codec import PayloadInvalid, decode, encode
from edge.schema.messages import Ack
from edge.schema.results import FIRST_PREVIOUS, Result
from tests.conftest import frame_result

FOLDER = Path(__file__).parents[3] / "docs" / "schema"


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_the_published_schema_is_the_one_of_the_types(name: str) -> None:
    """Run `hemascope schema docs/schema` after changing a type."""
    assert (FOLDER / f"{name}.json").read_text() == schema_text(name)


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_every_schema_is_one(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(schema_text(name)))


@pytest.fixture
def row(tmp_path: Path) -> bytes:
    ledger = Ledger(tmp_path, "scope-01")
    ledger.append(frame_result())
    ledger.close()
    reader = LedgerReader(tmp_path)
    (stored,) = reader.rows(0, 10)
    reader.close()
    return stored.data


def test_a_row_fits_its_schema(row: bytes) -> None:
    jsonschema.validate(json.loads(row), json.loads(schema_text("result")))


def test_a_row_with_another_field_does_not(row: bytes) -> None:
    more = {**json.loads(row), "patient": "x"}

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(more, json.loads(schema_text("result")))
    with pytest.raises(PayloadInvalid):
        decode(json.dumps(more).encode(), Result)


@pytest.mark.parametrize("name", ["", "A", "a b", "a\n", "-a", "archive", "a" * 33])
def test_a_device_name_is_a_topic_level_and_nothing_else(row: bytes, name: str) -> None:
    other = json.dumps({**json.loads(row), "device": name}).encode()

    with pytest.raises(PayloadInvalid):
        decode(other, Result)


def test_times_are_aware_and_in_utc(row: bytes) -> None:
    result = decode(row, Result)

    assert result.utc.utcoffset() is not None
    assert json.loads(row)["utc"].endswith("Z")


def test_an_acknowledgement_is_small() -> None:
    ack = Ack(epoch="0" * 36, upto=2**53, hash=FIRST_PREVIOUS, resume=True)

    assert len(encode(ack)) < 200
