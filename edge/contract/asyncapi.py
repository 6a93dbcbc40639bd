"""The MQTT contract as an AsyncAPI 3 document, generated from the types.

The document describes a device: what it sends and receives, with which quality of
service, and whether retained. `tests/flow/test_contract.py` compares live messages with
it.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from edge import __version__
from edge.contract.published import with_published_keys, with_published_names
from edge.delivery.announcer import RESPONSE_EXPIRY_S
from edge.ledger.preview_file import MAX_PREVIEW_BYTES
from edge.monitoring.metrics import Metrics
from edge.mqtt import ARCHIVE_STATE, REQUESTS, RESPONSES, topic
from edge.schema.codec import normalise_schema
from edge.schema.entries import Entry
from edge.schema.messages import Ack, ArchiveState, DeviceState
from edge.schema.requests import (
    COMMANDS,
    MAX_REQUEST_BYTES,
    NoteRequest,
    Request,
    Response,
    StartRequest,
)
from edge.schema.results import Result

_BINDING = "0.2.0"
_JPEG = "image/jpeg"


@dataclass(frozen=True, slots=True)
class Channel:
    """One topic, or several that differ in their last level, written `{name}`."""

    key: str
    address: str
    direction: Literal["send", "receive"]
    messages: tuple[type[msgspec.Struct], ...]
    summary: str
    qos: Literal[0, 1] = 1
    is_retained: bool = False
    expires_s: int | None = None


CHANNELS = (
    Channel(
        "result",
        topic("{device}", "result"),
        "send",
        (Result, Entry),
        "A row of the ledger, byte for byte; sent again until the archive has it.",
    ),
    Channel(
        "ack",
        topic("{device}", "ack"),
        "receive",
        (Ack,),
        "Sent by the archive: which rows it holds.",
    ),
    Channel(
        "state",
        topic("{device}", "state"),
        "send",
        (DeviceState,),
        "Whether the device is connected, and its alarms; also its last will.",
        is_retained=True,
    ),
    Channel(
        "alarm",
        topic("{device}", "alarm"),
        "send",
        (Entry,),
        "A row of the ledger that is an alarm, sent at once.",
    ),
    Channel(
        "metrics",
        topic("{device}", "metrics"),
        "send",
        (Metrics,),
        "Metrics, once per second; they may be lost.",
        qos=0,
    ),
    Channel(
        "preview",
        topic("{device}", "preview"),
        "send",
        (),
        f"An annotated picture, JPEG of at most {MAX_PREVIEW_BYTES} bytes; off unless "
        "switched on. The user property `seq` is the row that it shows.",
        qos=0,
    ),
    Channel(
        "request",
        topic("{device}", f"{REQUESTS}/{{name}}"),
        "receive",
        (Request, StartRequest, NoteRequest),
        f"A request; at most {MAX_REQUEST_BYTES} bytes, never retained. A "
        "start is a StartRequest, a note a NoteRequest, any other command a Request.",
    ),
    Channel(
        "response",
        topic("{device}", f"{RESPONSES}/{{name}}"),
        "send",
        (Response,),
        "What became of a request.",
        expires_s=RESPONSE_EXPIRY_S,
    ),
    Channel(
        "archive-state",
        ARCHIVE_STATE,
        "receive",
        (ArchiveState,),
        "Whether an archive is connected; also its last will.",
        is_retained=True,
    ),
)


def asyncapi_text() -> str:
    """Return the document as the text of its file."""
    return json.dumps(asyncapi_document(), indent=2, ensure_ascii=False) + "\n"


def asyncapi_document() -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document."""
    kinds = list(dict.fromkeys(k for c in CHANNELS for k in c.messages))
    _, components = msgspec.json.schema_components(
        kinds, ref_template="#/components/schemas/{name}"
    )
    schemas = normalise_schema(components)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Hemascope device",
            "version": __version__,
            "description": "A microscope that names blood cells, over MQTT 5.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {"laboratory": _server()},
        "channels": {channel.key: _channel(channel) for channel in CHANNELS},
        "operations": {channel.key: _operation(channel) for channel in CHANNELS},
        "components": {
            "messages": {
                **{kind.__name__: _message(kind) for kind in kinds},
                "Preview": _preview(),
            },
            "schemas": {
                name: _draft_7(schema)
                for name, schema in with_published_keys(
                    with_published_names(schemas)
                ).items()
            },
            "parameters": {
                "device": {
                    "description": "Name of a device: a-z, 0-9 and -, at most 32, not "
                    "`archive`."
                },
                "name": {"enum": list(COMMANDS), "description": "The command."},
            },
        },
    }


def _server() -> dict[str, Any]:
    return {
        "host": "broker.example:8883",
        "protocol": "secure-mqtt",
        "protocolVersion": "5.0",
        "description": "The laboratory's broker. A device uses its name as client id.",
        "bindings": {
            "mqtt": {
                "cleanSession": True,
                "lastWill": {
                    "topic": topic("{device}", "state"),
                    "qos": 1,
                    "retain": True,
                    "message": "A DeviceState that says offline.",
                },
                "bindingVersion": _BINDING,
            }
        },
    }


def _channel(channel: Channel) -> dict[str, Any]:
    names = [kind.__name__ for kind in channel.messages] or ["Preview"]
    description: dict[str, Any] = {
        "address": channel.address,
        "description": channel.summary,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
    }
    parameters = {
        name: {"$ref": f"#/components/parameters/{name}"}
        for name in ("device", "name")
        if f"{{{name}}}" in channel.address
    }
    return {**description, "parameters": parameters} if parameters else description


def _operation(channel: Channel) -> dict[str, Any]:
    binding: dict[str, Any] = {"qos": channel.qos, "retain": channel.is_retained}
    if channel.expires_s is not None:
        binding["messageExpiryInterval"] = channel.expires_s
    description: dict[str, Any] = {
        "action": channel.direction,
        "channel": {"$ref": f"#/channels/{channel.key}"},
        "summary": channel.summary,
        "bindings": {"mqtt": {**binding, "bindingVersion": _BINDING}},
    }
    if channel.key == "request":
        description["reply"] = {"channel": {"$ref": "#/channels/response"}}
    return description


def _message(kind: type[msgspec.Struct]) -> dict[str, Any]:
    name = kind.__name__
    description: dict[str, Any] = {
        "name": name,
        "summary": (inspect.getdoc(kind) or "").split("\n\n")[0],
        "payload": {"$ref": f"#/components/schemas/{name}"},
    }
    if issubclass(kind, (Request, Response)):
        description["correlationId"] = {"location": "$message.payload#/id"}
    if issubclass(kind, Request):
        name_schema = {
            "type": "string",
            "description": "The name of the program that asks.",
        }
        description["headers"] = {
            "type": "object",
            "properties": {"client": name_schema},
        }
    return description


def _preview() -> dict[str, Any]:
    seq = {"type": "string", "pattern": "^[0-9]{1,15}$"}
    return {
        "name": "Preview",
        "contentType": _JPEG,
        "headers": {"type": "object", "properties": {"seq": seq}, "required": ["seq"]},
        "payload": {"type": "string", "contentMediaType": _JPEG},
    }


def _draft_7(schema: Any) -> Any:
    """Turn a schema of 2020-12 into one of AsyncAPI, a superset of draft 7."""
    if isinstance(schema, list):
        return [_draft_7(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {k: _draft_7(v) for k, v in schema.items() if k != "discriminator"}
    if "prefixItems" in plain:
        plain["items"] = plain.pop("prefixItems")
        plain["additionalItems"] = False
    return plain
