"""The AsyncAPI document: the one of the types, and one that is valid."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edge.contract.asyncapi import CHANNELS, asyncapi_document, asyncapi_text
from edge.contract.json_schemas import ASYNCAPI
from tests.contract import schema_of_message

FILE = Path(__file__).parents[3] / "docs" / "schema" / ASYNCAPI


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def test_the_committed_document_is_the_one_of_the_types() -> None:
    """Run `hemascope schema docs/schema` after changing a type or a topic."""
    assert FILE.read_text(encoding="utf-8") == asyncapi_text()


def test_every_reference_leads_somewhere() -> None:
    document = asyncapi_document()
    found = set(references(document))

    assert len(found) > 20
    for reference in found:
        part = document
        for step in reference.removeprefix("#/").split("/"):
            part = part[step]


def test_channels_operations_and_parameters_belong_together() -> None:
    document = asyncapi_document()

    assert document["asyncapi"] == "3.0.0"
    assert set(document["channels"]) == {channel.key for channel in CHANNELS}
    for key, operation in document["operations"].items():
        assert operation["action"] in ("send", "receive")
        assert operation["channel"] == {"$ref": f"#/channels/{key}"}
        assert set(operation["bindings"]["mqtt"]) <= {
            "qos",
            "retain",
            "messageExpiryInterval",
            "bindingVersion",
        }
    for channel in document["channels"].values():
        named = {part[1:-1] for part in channel["address"].split("/") if "{" in part}
        assert named == set(channel.get("parameters", {}))
        assert channel["messages"]


def test_every_payload_is_a_schema_of_draft_7() -> None:
    for name in asyncapi_document()["components"]["messages"]:
        jsonschema.Draft7Validator.check_schema(schema_of_message(name))


def test_the_document_fits_the_specification() -> None:
    """Give the file 3.0.0.json of the npm package @asyncapi/specs."""
    path = os.environ.get("HEMASCOPE_ASYNCAPI_SCHEMA")
    if path is None:
        pytest.skip("HEMASCOPE_ASYNCAPI_SCHEMA does not name AsyncAPI's 3.0.0.json")
    schema = json.loads(Path(path).read_text(encoding="utf-8"))

    jsonschema.Draft7Validator(schema).validate(asyncapi_document())
