"""Hold a message that went over a broker against the AsyncAPI document."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import jsonschema

from edge.contract.asyncapi import asyncapi_document
from edge.mqtt import Message

_JPEG = b"\xff\xd8\xff"


@cache
def published_contract() -> dict[str, Any]:
    return asyncapi_document()


def schema_of_message(name: str) -> dict[str, Any]:
    """Schema of a message's payload, with all that it refers to."""
    components = published_contract()["components"]
    return {**components["messages"][name]["payload"], "components": components}


@cache
def _validator(name: str) -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(schema_of_message(name))


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    found = []
    for key, channel in published_contract()["channels"].items():
        pattern = re.escape(channel["address"]).replace(r"\{device\}", "[a-z0-9-]+")
        names = published_contract()["components"]["parameters"]["name"]["enum"]
        pattern = pattern.replace(r"\{name\}", f"({'|'.join(names)})")
        found.append((key, re.compile(pattern)))
    return sorted(found, key=lambda one: one[0] != "archive-state")


def broken(message: Message) -> str | None:
    """Say what of the contract a message breaks; None if nothing."""
    key = channel_of(message)
    if key is None:
        return f"no channel has the topic {message.topic}"
    binding = published_contract()["operations"][key]["bindings"]["mqtt"]
    if message.qos != binding["qos"]:
        return f"{key}: QoS {message.qos}, expected {binding['qos']}"
    if message.is_retained != binding["retain"]:
        return f"{key}: retain {message.is_retained}, expected {binding['retain']}"
    names = list(published_contract()["channels"][key]["messages"])
    if names == ["Preview"]:
        seq = dict(message.properties).get("seq", "")
        is_one = message.payload.startswith(_JPEG) and seq.isdigit()
        return None if is_one else f"{key}: no JPEG of a row"
    payload = json.loads(message.payload)
    if not any(_validator(name).is_valid(payload) for name in names):
        errors = [e.message for n in names for e in _validator(n).iter_errors(payload)]
        return f"{key}: {message.payload[:200]!r}: {errors[:3]}"
    return None


def channel_of(message: Message) -> str | None:
    """Key of the channel that a message went over."""
    for key, pattern in _patterns():
        if pattern.fullmatch(message.topic):
            return key
    return None
